# H2LO-BIDS: pip only, no FSL, no FreeSurfer; CPU PyTorch if pip finds it.
#   docker build -t h2lo .
#   docker run --rm -v BIDS:/data:ro -v OUT:/out h2lo /data /out participant
# PIP_ARGS reaches every pip call: give it PyTorch's own CPU or CUDA wheel index.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
ARG PIP_ARGS=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python3 -m venv /opt/h2lo
# Dependencies first: they change less often than the code.
COPY pyproject.toml README.md LICENSE ./
RUN python3 -c 'import tomllib; print("\n".join(tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"]))' > requirements.txt \
    && /opt/h2lo/bin/pip install ${PIP_ARGS} -r requirements.txt
COPY h2lo_bids h2lo_bids
COPY pipelines pipelines
COPY bids_app_spec bids_app_spec
RUN /opt/h2lo/bin/pip install --no-deps ${PIP_ARGS} . \
    && /opt/h2lo/bin/pip check \
    && find /opt/h2lo -type d -name tests -path '*/site-packages/*' -prune -exec rm -rf {} +

FROM ${BASE_IMAGE}
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="H2LO-BIDS" \
      org.opencontainers.image.description="BIDS App: low-field MRI synthesized from high-field MRI" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
COPY --from=build /opt/h2lo /opt/h2lo
# Any uid may run this: HOME is writable by all, and nothing else needs to be.
RUN mkdir -p /home/h2lo && chmod 1777 /home/h2lo
ENV PATH=/opt/h2lo/bin:$PATH \
    HOME=/home/h2lo \
    PYTHONDONTWRITEBYTECODE=1 \
    NIPYPE_NO_ET=1 \
    H2LO_CONTAINER=h2lo-bids:${VERSION} \
    LANG=C.UTF-8
USER 1000:1000
ENTRYPOINT ["h2lo"]
