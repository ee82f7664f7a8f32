# The collector, and as target `chat` the reference service of the demonstration. Built by docker-compose.monitoring.yml:
#   docker build --file deploy/collector.Dockerfile --target collector .
# Nothing of pip, no compiler and no source tree reaches the images that run.

FROM python:3.13.9-slim-trixie AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /source
RUN python -m venv /opt/isolation
# The lock alone first: a change of our code does not make the dependencies anew.
COPY requirements/ci.txt requirements/
COPY pyproject.toml README.md ./
COPY src src
COPY telemetry telemetry
COPY collector collector
COPY alerts alerts
COPY dashboards dashboards
COPY cli cli
COPY demo demo
RUN /opt/isolation/bin/pip install --constraint requirements/ci.txt ".[collector,postgres]"

FROM build AS build-chat
RUN /opt/isolation/bin/pip install --constraint requirements/ci.txt ".[demo]"

FROM python:3.13.9-slim-trixie AS runtime
ENV PATH=/opt/isolation/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
COPY deploy/run_with_secrets.py /usr/local/lib/isolation/run_with_secrets.py
# A number, so that Kubernetes can prove that it is not root.
USER 10001:10001
WORKDIR /tmp
ENTRYPOINT ["python", "-I", "/usr/local/lib/isolation/run_with_secrets.py"]

FROM runtime AS chat
COPY --from=build-chat /opt/isolation /opt/isolation
COPY examples/chat /opt/isolation/examples/chat
EXPOSE 8000
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=6 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
CMD ["python", "-m", "uvicorn", "chat.app:app", "--app-dir", "/opt/isolation/examples", "--host", "0.0.0.0", "--port", "8000", "--workers", "2"]

FROM runtime AS collector
COPY --from=build /opt/isolation /opt/isolation
EXPOSE 8400
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=6 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8400/readyz', timeout=2)"]
CMD ["python", "-m", "uvicorn", "--factory", "isolation_monitor.collector.app:create_app", \
    "--host", "0.0.0.0", "--port", "8400", "--timeout-graceful-shutdown", "10", "--no-server-header", \
    "--http", "isolation_monitor.collector.http_head:BoundedHead"]
