"""Traces by OpenTelemetry, with W3C trace context; imported only if they are asked for.

A request is a span of the server kind; the stages of an item are its children.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from serving import SERVICE_NAME
from serving.settings import Settings
from wander import __version__
from wander.errors import MissingDependency

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span

    from serving.answers import Timing
    from serving.model import Model

STAGES = ("preprocess", "queue", "inference", "postprocess")


class Tracing:
    """Args:

    exporter: where spans go; that of `settings.otlp_endpoint`, if none is given.
    """

    def __init__(self, settings: Settings, exporter: SpanExporter | None = None) -> None:
        try:
            from opentelemetry import trace
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ModuleNotFoundError as error:
            raise MissingDependency(f"{error.name} is not installed; run: pip install 'wander[telemetry]'") from error
        resource = Resource.create({"service.name": SERVICE_NAME, "service.version": __version__})
        self._provider = TracerProvider(resource=resource, sampler=ParentBasedTraceIdRatio(settings.trace_ratio))
        self._provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter(settings.otlp_endpoint)))
        self._tracer = self._provider.get_tracer(SERVICE_NAME, __version__)
        self._propagator = TraceContextTextMapPropagator()
        self._trace = trace

    @contextmanager
    def request(self, method: str, headers: Mapping[str, str]) -> Iterator[Span]:
        """A span for one request, below that of its client if the client named one."""
        context = self._propagator.extract(headers)
        kind = self._trace.SpanKind.SERVER
        with self._tracer.start_as_current_span(method, context, kind, record_exception=False) as span:
            yield span

    def finish(self, span: Span, method: str, route: str, status: int, request_id: str) -> None:
        """Names the span after its route, and says how it ended (OpenTelemetry's conventions for HTTP servers)."""
        span.update_name(f"{method} {route}")
        span.set_attributes(
            {
                "http.request.method": method,
                "http.route": route,
                "http.response.status_code": status,
                "wander.request_id": request_id,
            }
        )
        if status >= 500:
            span.set_status(self._trace.StatusCode.ERROR)

    def stages(self, model: Model, timing: Timing) -> None:
        """The stages of an item that was answered just now, as spans one after the other."""
        if not self._trace.get_current_span().is_recording():
            return
        attributes = {"wander.model": model.name, "wander.version": model.version, "wander.adapter": model.adapter}
        end = time.time_ns()
        begin = end - round(sum(getattr(timing, stage) for stage in STAGES) * 1e9)
        for stage in STAGES:
            span = self._tracer.start_span(stage, start_time=begin, attributes=attributes)
            begin += round(getattr(timing, stage) * 1e9)
            span.end(begin)

    def close(self) -> None:
        """Sends what is still to be sent."""
        self._provider.shutdown()
