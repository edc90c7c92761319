"""What the CLI may change in a mounted vault: its hosts and its policy. Every change is durable before it is answered.

A host that joins is probed and gets the vault's past before anything relies on it; one that leaves is emptied first,
unless its owner knows better. What has to move is moved in the background by sync.repair.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from os import urandom

import trio

from megafs.control.hostmessages import HostAsk, HostTest, Planned, PlannedHost, Tested
from megafs.control.messages import Done, Message, Progress, Request
from megafs.control.server import Handler
from megafs.crypto.identity import RootKey
from megafs.crypto.recovery import RecoveryKey
from megafs.daemon import secrets
from megafs.daemon.engine import Engine
from megafs.daemon.hosts import Opener
from megafs.errors import HostError, Incomplete, Unavailable, Usage, WrongKey
from megafs.hosts import HostSecrets, Stack, checked_url, open_host
from megafs.hosts.probe import probe
from megafs.model import GivenSecrets, HostId, HostSpec, Policy
from megafs.placement import explain
from megafs.sync import boot as boots
from megafs.sync.statements import Boot

TEST_S = 60.0  # a host that takes longer for a probe of a megabyte fails it


class HostCalls:
    """The handlers of one mount that change its hosts or its policy; one at a time."""

    def __init__(self, engine: Engine, opener: Opener) -> None:
        self._engine, self._opener = engine, opener
        self._lock = trio.Lock()  # of changes; held across requests to hosts, but no reader or writer ever takes it

    def handlers(self) -> Mapping[str, Handler]:
        return {
            "add": self.add,
            "remove": self.remove,
            "drain": self.drain,
            "set": self.adjust,
            "test": self.test,
            "plan": self.plan,
            "policy": self.policy,
        }

    def _find(self, name: str) -> HostSpec:
        for spec in sorted(self._engine.vault.hosts(), key=lambda spec: spec.state == "gone"):
            if name in (spec.label, spec.url):
                return spec
        raise Usage(f"the vault has no host {name!r}; megafs hosts shows them")

    async def _change(self, spec: HostSpec) -> None:
        self._engine.shipper.claims.check_writable()
        self._engine.vault.put_host(spec)
        await self._engine.commits.durable_now()
        self._engine.keeping.wake()
        self._engine.keeping.repairer.wake()

    # add

    async def add(self, request: Request) -> AsyncGenerator[Message, None]:
        """Probe the host, bring it up to date, name it in the index."""
        async with self._lock:
            engine, asked = self._engine, request.host
            engine.shipper.claims.check_writable()
            given = {secret.name: secret.value for secret in asked.secrets}
            again = self._draining(asked.name)
            if again is not None:
                await self._change(replace(again, state="active"))
                yield Done(sentences=(f"{again.label} takes its share again.",))
                return
            spec = self._new_spec(asked)
            stack = self._opener.stack(spec, open_host(spec.url, secrets=given, label=spec.label))
            try:
                with trio.fail_after(TEST_S):
                    await stack.patient.prepare()
                    found = await probe(stack.prompt)
                boot = await self._boot(asked) if asked.recovery_key else None
                engine.keeping.join(spec.id, stack)
                async with aclosing(engine.keeping.bring_up(spec.id)) as steps:
                    async for done, total in steps:
                        yield Progress(done_bytes=done, total_bytes=total)
                silent = await self._renew_boot(boot, asked, spec, stack) if boot is not None else []
                await trio.to_thread.run_sync(self._keep_secrets, spec.url, given, asked.secrets_typed)
                engine.stacks[spec.id] = stack
                engine.space.free[spec.id] = found.usage.free_bytes
                spec = replace(spec, append_only=asked.append_only or not found.can_delete)
                await self._change(spec)
            except BaseException as error:
                if engine.stacks.get(spec.id) is not stack:
                    engine.keeping.leave(spec.id)
                    with trio.CancelScope(shield=True):  # closes connections
                        await stack.aclose()
                if isinstance(error, trio.TooSlowError):
                    raise Unavailable(f"{spec.label}: the probe took more than {TEST_S:.0f} s") from error
                raise
            yield Done(sentences=(*self._joined(spec, asked), *silent))

    def _draining(self, url: str) -> HostSpec | None:
        text = checked_url(url).text
        return next((s for s in self._engine.vault.hosts() if s.url == text and s.state == "draining"), None)

    def _new_spec(self, asked: HostAsk) -> HostSpec:
        check_words(asked)
        url, hosts = checked_url(asked.name), self._engine.vault.hosts()
        if any(spec.url == url.text and spec.state != "gone" for spec in hosts):
            raise Usage(f"{url.text} is a host of this vault already")
        labels = {spec.label for spec in hosts}
        usual = (f"{url.kind}-{number}" for number in range(1, len(hosts) + 2))
        label = asked.label or next(each for each in usual if each not in labels)
        if label in labels:
            raise Usage(f"a host of this vault is called {label} already")
        return HostSpec(
            id=HostId(urandom(16)),
            url=url.text,
            label=label,
            operator=asked.operator,
            region=asked.region,
            price_storage=_price(asked.price_storage),
            price_egress=_price(asked.price_egress),
            limit_bytes=asked.limit_bytes,
            append_only=asked.append_only,
        )

    def _joined(self, spec: HostSpec, asked: HostAsk) -> Sequence[str]:
        told = [f"{spec.label} is a host of this vault now."]
        if not asked.recovery_key:
            told.append(
                f"To attach, name one of the older hosts: {spec.label} alone cannot be found with the recovery key. "
                "(Adding with --recovery-key-file makes it so.)"
            )
        if spec.append_only and not asked.append_only:
            told.append("Its credentials do not delete, so it counts as append-only.")
        return told

    def _keep_secrets(self, url: str, given: HostSecrets, typed: bool) -> None:
        paths = self._engine.paths
        secrets.keep(paths, paths.root, self._engine.device.keyring, GivenSecrets(by_url={url: given}, typed=typed))

    async def _boot(self, asked: HostAsk) -> Boot:
        """The newest boot object that the recovery key opens on the hosts there are."""
        engine, recovery = self._engine, RecoveryKey.from_text(asked.recovery_key)
        found: list[Boot] = []
        for spec in engine.vault.hosts():
            stack = engine.stacks.get(spec.id)
            if stack is not None and spec.state != "gone":
                try:
                    boot = await boots.find(stack.prompt, recovery)
                except HostError:
                    continue
                found += [boot] if boot is not None and boot.keyring.vault == engine.device.keyring.vault else []
        if not found:
            raise WrongKey("this recovery key opens nothing on the hosts of this vault that answer")
        return max(found, key=lambda boot: boot.rank)

    async def _renew_boot(self, boot: Boot, asked: HostAsk, new: HostSpec, stack: Stack) -> list[str]:
        """A boot object of the next generation that lists the new host, on every host; a sentence for each older one
        that does not take it (its old one stays good). Raises HostError if the new one does not."""
        engine, told = self._engine, []
        specs = [*(spec for spec in engine.vault.hosts() if spec.state != "gone"), new]
        stacks = {**engine.stacks, new.id: stack}
        for spec in reversed(specs):
            try:
                given = await boots.put(
                    stacks[spec.id].patient,
                    spec,
                    specs,
                    generation=boot.generation + 1,
                    keyring=engine.device.keyring,
                    epochs=engine.device.epochs,
                    recovery=RecoveryKey.from_text(asked.recovery_key),
                    root=RootKey(boot.root_seed),
                )
                engine.vault.set_boot(spec.id, *given)
            except (HostError, Unavailable) as error:
                if spec is new:
                    raise
                told.append(f"{spec.label} did not take the new boot object and does not tell of {new.label}: {error}")
        return told

    # remove, drain

    async def remove(self, request: Request) -> AsyncGenerator[Message, None]:
        """Only what is empty leaves, unless forced: then repair makes anew elsewhere what it can."""
        async with self._lock:
            engine, spec = self._engine, self._find(request.host.name)
            engine.shipper.claims.check_writable()
            others = [each for each in engine.vault.hosts() if each.id != spec.id and each.state == "active"]
            if not others:
                raise Usage("a vault has at least one host")
            packs, _ = engine.packs.on_host(spec.id)
            newest = engine.ledger.newest_upload()
            behind = all(engine.ledger.lacking(each.id, newest) for each in others)
            if not request.host.force and (packs or behind):
                what = f"{packs} packs" if packs else "commits that no other host has"
                raise Incomplete(f"{spec.label} still holds {what}: drain it first, or --force")
            told = [f"{spec.label} is no longer a host of this vault; what lies there is still encrypted."]
            if packs:
                told.append(f"{packs} packs are made anew on the other hosts from what is left of them.")
                await self._change(replace(spec, state="gone", label=f"{spec.label} (gone)"))
            else:
                engine.vault.delete_host(spec.id)
                await engine.commits.durable_now()
            engine.keeping.leave(spec.id)
            engine.keeping.repairer.wake()
            await trio.to_thread.run_sync(secrets.forget, engine.paths, engine.device.keyring, spec.url)
            yield Done(sentences=(*told, *self._shortage(len(others))))

    async def drain(self, request: Request) -> AsyncGenerator[Message, None]:
        """Nothing new goes there; what is there moves to the others in the background."""
        async with self._lock:
            spec = self._find(request.host.name)
            if spec.state == "gone":
                raise Usage(f"{spec.label} is gone")
            await self._change(replace(spec, state="draining"))
            packs, _ = self._engine.packs.on_host(spec.id)
            told = [f"{spec.label} is being emptied: {packs} packs; megafs hosts shows how many are left."]
            told += self._shortage(sum(each.state == "active" for each in self._engine.vault.hosts()))
            yield Done(sentences=tuple(told))

    def _shortage(self, left: int) -> Sequence[str]:
        places = self._engine.vault.policy().places
        return [f"Hosts left: {left}, and the policy needs {places}: add one."] if left < places else []

    async def adjust(self, request: Request) -> AsyncGenerator[Message, None]:
        """What its owner says of a host: placement, limits and deleting go by it from now on."""
        async with self._lock:
            spec, asked = self._find(request.host.name), request.host
            if spec.state == "gone":
                raise Usage(f"{spec.label} is gone")
            if not asked.given:
                raise Usage("say what to change: --label, --operator, --region, a price, --limit or --append-only")
            labels = {each.label for each in self._engine.vault.hosts() if each.id != spec.id}
            if "label" in asked.given and (not asked.label or asked.label in labels):
                raise Usage(f"a host of this vault is called {asked.label} already" if asked.label else "it has a name")
            check_words(asked)
            changed = _changed(spec, asked)
            await self._change(changed)
            told = [f"{changed.label} is as you said, from now on and for all devices."]
            if changed.label != spec.label:
                told.append(f"Until the next mount messages may still call it {spec.label}.")
            yield Done(sentences=tuple(told))

    # test, plan, policy

    async def test(self, request: Request) -> AsyncGenerator[Message, None]:
        """Probe one host or all, one after the other: they would compete for the line."""
        chosen = [self._find(request.host.name)] if request.host.name else self._engine.vault.hosts()
        results: list[HostTest] = []
        for number, spec in enumerate(chosen):
            stack = self._engine.stacks.get(spec.id)
            if stack is not None and spec.state != "gone":
                yield Progress(done_bytes=number, total_bytes=len(chosen))
                stack.measured.ask_now()
                results.append(await _tested(spec, stack))
        yield Tested(hosts=tuple(results))

    async def plan(self, request: Request) -> AsyncGenerator[Message, None]:
        """What the policy, or another one, means with these hosts and what the vault holds now."""
        engine = self._engine
        if (other := asked_policy(request)) is not None:
            self._check_fits(other)
        policy = other or engine.vault.policy()
        stored = engine.packs.stored_bytes()
        states = [state for state in engine.space.states() if state.spec.state != "gone"]
        plan = await trio.to_thread.run_sync(explain, states, policy, stored)
        yield Planned(
            hosts=tuple(
                PlannedHost(
                    label=host.label,
                    obstacle=host.obstacle,
                    reasons=host.reasons,
                    stored_bytes=host.stored_bytes,
                    month_price=f"{host.month_price:.4f}",
                )
                for host in plan.hosts
            ),
            copies=0 if policy.k else policy.copies,
            k=policy.k,
            m=policy.m,
            plain_bytes=stored,
            stored_bytes=plan.stored_bytes,
            places_wanted=plan.places_wanted,
            places_found=plan.places_found,
            month_price=f"{plan.month_price:.4f}",
            read_price=f"{plan.read_price:.4f}",
            survives_hosts=plan.survives_hosts,
            survives_operators=plan.survives_operators,
            survives_regions=plan.survives_regions,
            remarks=plan.remarks,
        )

    def _check_fits(self, policy: Policy) -> None:
        active = [spec for spec in self._engine.vault.hosts() if spec.state == "active"]
        if policy.places > len(active):
            raise Usage(f"this policy needs {policy.places} hosts, and the vault has {len(active)} active ones")

    async def policy(self, request: Request) -> AsyncGenerator[Message, None]:
        """New packs follow at once, the others in the background."""
        async with self._lock:
            engine, policy = self._engine, asked_policy(request)
            if policy is None:
                raise Usage("a policy is --copies N or --shards K+M")
            engine.shipper.claims.check_writable()
            self._check_fits(policy)
            engine.vault.set_policy(policy)
            await engine.commits.durable_now()
            engine.keeping.repairer.wake()
            waiting = len(engine.packs.with_other_copies(policy.places, policy.shards))
            waiting += len(engine.packs.with_fewer_copies(policy.places))
            yield Done(
                sentences=(
                    "New packs follow the new policy from now on.",
                    f"{waiting} packs are changed to it in the background; until then they stay as safe as they were.",
                )
            )


def asked_policy(request: Request) -> Policy | None:
    """The policy that a request names; None for none. The client has checked its bounds; so do we."""
    if request.k or request.m:
        if not (request.k > 0 and request.m > 0 and request.k + request.m <= 32):
            raise Usage("shards are K+M, at least 1+1 and at most 32 in all")
        return Policy(k=request.k, m=request.m)
    if not request.copies:
        return None
    if not 0 < request.copies <= 32:
        raise Usage("copies are between 1 and 32")
    return Policy(copies=request.copies)


def check_words(asked: HostAsk) -> None:
    """A label stands wherever a URL may, and all three are printed."""
    if "://" in asked.label:
        raise Usage("a label is not a URL")
    if not f"{asked.label}{asked.operator}{asked.region}".isprintable():
        raise Usage("a label, an operator and a region have no control characters")


def _changed(spec: HostSpec, asked: HostAsk) -> HostSpec:
    """The host as ``set`` wants it."""
    given = asked.given
    return replace(
        spec,
        label=asked.label if "label" in given else spec.label,
        operator=asked.operator if "operator" in given else spec.operator,
        region=asked.region if "region" in given else spec.region,
        price_storage=_price(asked.price_storage) if "price_storage" in given else spec.price_storage,
        price_egress=_price(asked.price_egress) if "price_egress" in given else spec.price_egress,
        limit_bytes=asked.limit_bytes if "limit_bytes" in given else spec.limit_bytes,
        append_only=asked.append_only if "append_only" in given else spec.append_only,
    )


async def _tested(spec: HostSpec, stack: Stack) -> HostTest:
    try:
        with trio.fail_after(TEST_S):
            found = await probe(stack.prompt)
    except HostError as error:
        return HostTest(label=spec.label, url=spec.url, error=str(error))
    except trio.TooSlowError:
        return HostTest(label=spec.label, url=spec.url, error=f"the probe took more than {TEST_S:.0f} s")
    free = found.usage.free_bytes
    return HostTest(
        label=spec.label,
        url=spec.url,
        latency_us=int(found.latency_s * 1e6),
        upload_bytes_s=int(found.upload_bytes_s),
        download_bytes_s=int(found.download_bytes_s),
        can_delete=found.can_delete,
        can_list=found.can_list,
        free_bytes=-1 if free is None else free,
    )


def _price(text: str) -> float:
    try:
        price = float(text or "0")
    except ValueError as error:
        raise Usage(f"a price is a number, unlike {text!r}") from error
    if not 0 <= price < 1e6:
        raise Usage(f"a price is at least 0, unlike {text!r}")
    return price
