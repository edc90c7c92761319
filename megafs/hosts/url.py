"""The URL of a host: parsed once, checked, and printed without secrets. Pure.

``kind://user@place:port/path?option=value``. The user name or access key is part of the URL, the secret that belongs to
it never is: it comes from the keyring or a file of mode 0600 and is handed to ``open_host`` beside the URL.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from megafs.errors import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlRules:
    """What the URL of one kind looks like."""

    example: str
    place: bool = True  # a server name is needed (else: must be absent)
    user: bool = False  # a user name or key is needed
    folders: int = 0  # path segments needed: bucket, container
    options: tuple[str, ...] = ()
    needed: tuple[str, ...] = ()  # options that must be there
    secrets: tuple[str, ...] = ()  # names that open_host takes, most usual first
    wants_secret: bool = False  # without the first one nothing works


RULES: Mapping[str, UrlRules] = {
    "file": UrlRules(example="file:///mnt/disk/megafs", place=False, folders=1),
    "s3": UrlRules(
        example="s3://KEY@s3.example.org/BUCKET/PREFIX",
        user=True,
        folders=1,
        options=("region", "tls", "style", "ca"),
        secrets=("secret_key",),
        wants_secret=True,
    ),
    "webdav": UrlRules(example="webdav://USER@dav.example.org/folder", secrets=("password",)),
    "webdavs": UrlRules(example="webdavs://USER@dav.example.org/folder", options=("ca",), secrets=("password",)),
    "sftp": UrlRules(
        example="sftp://USER@example.org/folder",
        user=True,
        folders=1,
        options=("key", "known_hosts"),
        secrets=("passphrase", "password"),
    ),
    "gs": UrlRules(example="gs://BUCKET/PREFIX", options=("endpoint",), secrets=("credential",), wants_secret=True),
    "azblob": UrlRules(
        example="azblob://ACCOUNT@ACCOUNT.blob.core.windows.net/CONTAINER/PREFIX",
        user=True,
        folders=1,
        options=("tls", "style"),
        secrets=("account_key",),
        wants_secret=True,
    ),
    "b2": UrlRules(
        example="b2://KEYID@BUCKET/PREFIX?bucket_id=ID",
        user=True,
        options=("bucket_id",),
        needed=("bucket_id",),
        secrets=("application_key",),
        wants_secret=True,
    ),
}
CHOICES = {"tls": ("on", "off"), "style": ("path", "host")}


@dataclass(frozen=True, slots=True, kw_only=True)
class HostUrl:
    """A checked URL. ``folders`` are the decoded segments of the path."""

    kind: str
    user: str
    place: str
    port: int  # 0: the usual one
    folders: tuple[str, ...]
    options: Mapping[str, str]

    @property
    def rules(self) -> UrlRules:
        return RULES[self.kind]

    @property
    def server(self) -> str:
        """``place:port`` as it stands in an http URL."""
        place = f"[{self.place}]" if ":" in self.place else self.place
        return f"{place}:{self.port}" if self.port else place

    @property
    def text(self) -> str:
        """The one spelling of this URL; what the index keeps and what is printed."""
        user = f"{quote(self.user, safe='')}@" if self.user else ""
        path = "".join(f"/{quote(folder, safe='~')}" for folder in self.folders)
        options = f"?{urlencode(sorted(self.options.items()), safe='/~')}" if self.options else ""
        return f"{self.kind}://{user}{self.server}{path}{options}"


def checked_url(text: str) -> HostUrl:
    """Parse the URL of a host; raises Usage with one sentence that says what to write instead."""
    kind, separator, _ = text.partition("://")
    if not separator or kind not in RULES:
        raise Usage(f"a host is written KIND://..., with KIND one of {', '.join(RULES)}; not {display_url(text)!r}")
    rules = RULES[kind]
    if not text.isprintable() or " " in text or "\\" in text:
        raise Usage("the URL of a host has no spaces, backslashes or control characters; write them as %20 and so on")
    try:
        parts = urlsplit(text)
        server, port = parts.netloc.rpartition("@")[2], parts.port or 0
        # Not parts.hostname: it lowers the case, and buckets of b2 have one.
        place = server[1 : server.index("]")] if server.startswith("[") else server.partition(":")[0]
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError as error:
        raise Usage(f"{kind} URL cannot be read ({error}); write it like {rules.example}") from error
    if parts.password is not None:
        raise Usage("leave the secret out of the URL: it would be seen in process lists and logs; it is asked for")
    if parts.fragment:
        raise Usage("the URL of a host has no #; write it as %23")
    url = HostUrl(
        kind=kind,
        user=unquote(parts.username or ""),
        place=place,
        port=port,
        folders=tuple(unquote(folder) for folder in parts.path.split("/") if folder),
        options=dict(pairs),
    )
    _check(url, pairs)
    return url


def _check(url: HostUrl, pairs: list[tuple[str, str]]) -> None:
    rules = url.rules
    like = f"write it like {rules.example}"
    if rules.place and not url.place:
        raise Usage(f"a {url.kind} URL names a server or bucket; {like}")
    if not rules.place and (url.place or url.user):
        raise Usage(f"a {url.kind} URL names no server, so it has three slashes; {like}")
    if rules.user and not url.user:
        raise Usage(f"a {url.kind} URL names a user or key before the @; {like}")
    if len(url.folders) < rules.folders:
        raise Usage(f"the path of this {url.kind} URL is too short; {like}")
    if any(folder in {".", ".."} or "/" in folder or not folder.isprintable() for folder in url.folders):
        raise Usage(f"the path of a {url.kind} URL has no '.', '..' or hidden characters")
    if len(pairs) != len(url.options):
        raise Usage(f"an option stands twice in the {url.kind} URL")
    for key in rules.needed:
        if key not in url.options:
            raise Usage(f"a {url.kind} URL needs the option {key}; {like}")
    for key, value in url.options.items():
        if key not in rules.options:
            known = f"; known: {', '.join(rules.options)}" if rules.options else ""
            raise Usage(f"a {url.kind} URL has no option {key!r}{known}")
        if value not in CHOICES.get(key, (value,)) or not value:
            raise Usage(f"the option {key} of a URL is one of {', '.join(CHOICES.get(key, ('a value',)))}")


def checked_secrets(url: HostUrl, secrets: Mapping[str, str]) -> None:
    """Raises Usage when a secret that this host cannot work without is missing, or one is unknown."""
    wanted = url.rules.secrets
    if url.rules.wants_secret and not secrets.get(wanted[0]):
        raise Usage(f"{url.text} needs its {wanted[0].replace('_', ' ')}")
    for name in secrets:
        if name not in wanted:
            raise Usage(f"a {url.kind} host has no secret called {name!r}")


def display_url(text: str) -> str:
    """Any text that should be a URL, fit for screens and logs: without passwords and without control characters."""
    kind, separator, rest = text.partition("://")
    place, slash, path = rest.partition("/")
    user, at, server = place.rpartition("@")
    shown = f"{kind}{separator}{user.partition(':')[0]}{at}{server}{slash}{path}"
    return "".join(character if character.isprintable() else "?" for character in shown)
