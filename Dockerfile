# syntax=docker/dockerfile:1
# One image for the proxy and its scorer.
#   docker build -t cord .                                    (CPU)
#   docker build -t cord --build-arg TORCH_INDEX=<index of CUDA or CPU wheels> .
# TORCH_INDEX names an extra package index for torch; without it the default index decides which build comes.

ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
ARG TORCH_INDEX=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python -m venv /opt/cord
COPY constraints.txt pyproject.toml README.md ./
# torch first and by itself: the largest layer changes least.
RUN /opt/cord/bin/pip install --constraint constraints.txt ${TORCH_INDEX:+--extra-index-url ${TORCH_INDEX}} torch
COPY proxy proxy
COPY runtime runtime
COPY scoring scoring
COPY serving serving
RUN /opt/cord/bin/pip install --constraint constraints.txt .

FROM python:${PYTHON}-slim
RUN useradd --create-home --uid 10001 cord && mkdir /traces && chown cord /traces
COPY --from=build /opt/cord /opt/cord
WORKDIR /app
COPY config.yaml ./
COPY miniature/checkpoints miniature/checkpoints
COPY examples examples
RUN ln -s /traces traces
ENV PATH=/opt/cord/bin:$PATH PYTHONUNBUFFERED=1
USER 10001
VOLUME /traces
EXPOSE 4000
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:4000/ready', timeout=2)"]
ENTRYPOINT ["cord"]
CMD ["serve", "--host", "0.0.0.0"]
