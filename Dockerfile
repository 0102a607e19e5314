# H2LO-BIDS: pip only, no FSL, no FreeSurfer. docs/containers.md says how to build and run it.
# Whoever sits behind a mirror lends the build its pip.conf and ca.crt as secrets.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS dependencies
WORKDIR /src
COPY requirements requirements
COPY container/install container/install
ARG VARIANT=cpu
ARG TORCH_INDEX=""
ARG TORCH_SHA256=""
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca.crt,target=/run/secrets/ca.crt \
    container/install dependencies

FROM dependencies AS package
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca.crt,target=/run/secrets/ca.crt \
    container/install bom
# The code changes more often than the rest and goes into a small layer of its own;
# with it the HOME that any uid may write.
COPY pyproject.toml README.md LICENSE ./
COPY h2lo_bids h2lo_bids
COPY pipelines pipelines
COPY bids_app_spec bids_app_spec
RUN ROOT=/package container/install package \
    && mkdir -p /package/home && mkdir -m 1777 /package/home/h2lo

# What cannot be shipped, for builders who may use it: "URL#size=BYTES&sha256=HEX ...".
FROM ${BASE_IMAGE} AS fetch
COPY container/fetch.py /fetch.py

# FreeSurfer's synthstrip.1.pt; its size and SHA-256 are those of FreeSurfer's repository.
FROM fetch AS synthstrip
ARG SYNTHSTRIP_URL=""
ARG SYNTHSTRIP_FACTS="size=30851709&sha256=37417f802196186441aae3e7f385d94f8a98c64a88acaeaa2723af995c653e33"
RUN --mount=type=secret,id=ca.crt,target=/run/secrets/ca.crt \
    python3 /fetch.py /assets/freesurfer/models "${SYNTHSTRIP_URL:+${SYNTHSTRIP_URL}#${SYNTHSTRIP_FACTS}}"

FROM fetch AS templates
ARG TEMPLATES=""
RUN --mount=type=secret,id=ca.crt,target=/run/secrets/ca.crt \
    python3 /fetch.py /assets/templateflow "${TEMPLATES}"

FROM fetch AS authors
ARG AUTHORS_WEIGHTS=""
RUN --mount=type=secret,id=ca.crt,target=/run/secrets/ca.crt \
    python3 /fetch.py /assets/authors "${AUTHORS_WEIGHTS}"

FROM ${BASE_IMAGE}
COPY --from=dependencies /opt/h2lo /opt/h2lo
COPY --from=synthstrip /assets /opt/assets
COPY --from=templates /assets /opt/assets
COPY --from=authors /assets /opt/assets
COPY --from=package /package /
ARG SYNTHSTRIP_URL=""
ARG TEMPLATES=""
ARG VERSION=0.1.0
ARG REVISION=unknown
ENV PATH=/opt/h2lo/bin:$PATH \
    HOME=/home/h2lo \
    FREESURFER_HOME=${SYNTHSTRIP_URL:+/opt/assets/freesurfer} \
    TEMPLATEFLOW_HOME=${TEMPLATES:+/opt/assets/templateflow} \
    PYTHONDONTWRITEBYTECODE=1 \
    NIPYPE_NO_ET=1 \
    H2LO_CONTAINER=h2lo-bids:${VERSION} \
    LANG=C.UTF-8
LABEL org.opencontainers.image.title="H2LO-BIDS" \
      org.opencontainers.image.description="BIDS App: low-field MRI synthesized from high-field MRI" \
      org.opencontainers.image.documentation="https://arxiv.org/abs/2603.24968" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.bids.app="h2lo-bids" \
      org.bids.version="1.10.0" \
      org.bids.levels="participant group evaluate benchmark trial" \
      org.cyclonedx.sbom="/opt/h2lo/share/h2lo/sbom.cdx.json"
USER 1000:1000
ENTRYPOINT ["h2lo"]
