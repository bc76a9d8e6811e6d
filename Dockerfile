# Two images: `desk` trains, collapses and exports; `edge` runs, verifies and measures, without PyTorch.
# They install what the Makefile installs, as tests/test_docker.py holds. `make image-desk`, `make image-edge`.
FROM python:3.11-slim-bookworm@sha256:b18992999dbe963a45a8a4da40ac2b1975be1a776d939d098c647482bcad5cba AS base
RUN useradd --create-home --uid 1000 edgemtl
ENV PATH=/opt/edgemtl/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /home/edgemtl
ENTRYPOINT ["edgemtl"]
CMD ["--help"]

FROM base AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY recipes recipes
COPY edgemtl edgemtl
ENV PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/edgemtl

FROM build AS build-desk
RUN python -m pip install --quiet --disable-pip-version-check -c constraints.txt '.[desk]'

FROM build AS build-edge
RUN python -m pip install --quiet --disable-pip-version-check -c constraints.txt '.[ort]'

FROM base AS desk
COPY --from=build-desk /opt/edgemtl /opt/edgemtl
USER 1000:1000

# The last stage is what a build without --target makes: the small one.
FROM base AS edge
COPY --from=build-edge /opt/edgemtl /opt/edgemtl
USER 1000:1000
