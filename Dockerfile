# syntax=docker/dockerfile:1
# The proxy and its scorer in one image, or the proxy alone.
#   docker build -t cord .                                    (CPU)
#   docker build -t cord --build-arg TORCH_INDEX=<index of CUDA or CPU wheels> .
#   docker build -t cord-slim --target slim .                 (no torch, no litellm: for teachers and a scorer elsewhere)
#   docker run -e CORD_MASTER_KEY=... -p 4000:4000 cord
# TORCH_INDEX names an extra package index for torch; without it the default index decides which build comes. The proxy
# listens on all addresses in its container, so it wants a master key.

ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS base
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python -m venv /opt/cord
COPY constraints.txt pyproject.toml README.md LICENSE ./

FROM base AS build
ARG TORCH_INDEX=""
# torch first and by itself: the largest layer changes least.
RUN /opt/cord/bin/pip install --constraint constraints.txt ${TORCH_INDEX:+--extra-index-url ${TORCH_INDEX}} torch
COPY proxy proxy
COPY runtime runtime
COPY scoring scoring
COPY serving serving
COPY miniature miniature
RUN /opt/cord/bin/pip install --constraint constraints.txt .

FROM base AS build-slim
# All dependencies but those that models in this container would need.
RUN python -c "import re, tomllib; \
    wanted = tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies']; \
    print('\n'.join(d for d in wanted if re.match(r'[\w-]+', d)[0] not in ('torch', 'litellm', 'safetensors')))" \
    > slim.txt && /opt/cord/bin/pip install --constraint constraints.txt --requirement slim.txt
COPY proxy proxy
COPY runtime runtime
COPY scoring scoring
COPY serving serving
RUN /opt/cord/bin/pip install --no-deps .

FROM python:${PYTHON}-slim AS common
RUN useradd --create-home --uid 10001 cord && mkdir /app /traces && chown cord /app /traces
WORKDIR /app
RUN ln -s /traces traces
ENV PATH=/opt/cord/bin:$PATH PYTHONUNBUFFERED=1
VOLUME /traces
EXPOSE 4000
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:4000/ready', timeout=2)"]
ENTRYPOINT ["cord"]
CMD ["serve", "--host", "0.0.0.0"]

# Bring your own /app/config.yaml.
FROM common AS slim
COPY --from=build-slim /opt/cord /opt/cord
USER 10001

FROM common
COPY --from=build /opt/cord /opt/cord
COPY config.yaml ./
COPY miniature/checkpoints miniature/checkpoints
USER 10001
