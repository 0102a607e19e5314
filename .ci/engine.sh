# shellcheck shell=bash disable=SC2016,SC2034
# Sourced: finds a container engine and builds the image with it.
#
# An engine that runs is taken as it is: docker, else podman of a user. As root
# on Debian without one, podman is installed and works over a base made from
# Debian's packages, so no registry of images is needed; what it made is kept in
# $CONTAINER_STORE and used again.
image=${IMAGE:-localhost/h2lo:ci}
store=${CONTAINER_STORE:-${XDG_CACHE_HOME:-$HOME/.cache}/h2lo-containers}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
build_options=()
run_options=()

install_missing() {
    for package in "$@"; do
        dpkg -s "$package" >/dev/null 2>&1 && continue
        apt-get update -qq
        apt-get install -yqq --no-install-recommends "$@" >/dev/null
        break
    done
}

make_base() {
    mmdebstrap --quiet --variant=minbase \
        --include=python3,python3-pip,python3-venv,ca-certificates \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --customize-hook='rm -f "$1"/usr/lib/python3*/EXTERNALLY-MANAGED "$1"/etc/hostname "$1"/etc/resolv.conf' \
        --customize-hook='ln -s /usr/bin/python3 "$1"/usr/local/bin/python' \
        bookworm "$scratch/base.tar" /etc/apt/sources.list.d/debian.sources
    podman import --quiet --change 'CMD ["python3"]' --change 'ENV LANG=C.UTF-8' \
        --change 'ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin' \
        "$scratch/base.tar" "$1" >/dev/null
    rm "$scratch/base.tar"
}

own_podman() {
    install_missing podman runc mmdebstrap uidmap tini
    engine=podman
    mkdir -p "$store"
    printf '[storage]\ndriver="overlay"\ngraphroot="%s/store"\nrunroot="%s/run"\n' "$store" "$store" >"$store/storage.conf"
    export CONTAINERS_STORAGE_CONF=$store/storage.conf
    if ! podman info >/dev/null 2>&1; then
        echo "the kept store cannot be read; it is made anew"
        rm -rf "${store:?}"/{store,run}
    fi
    local base=localhost/ci-base:bookworm
    podman image exists "$base" || make_base "$base"
    # Cgroups and rlimits may not be changed on every machine that is itself virtual.
    build_options=(--isolation chroot --pull-never --network host --layers --build-arg "BASE_IMAGE=$base")
    run_options=(--runtime /usr/sbin/runc --ulimit nofile=4096:4096 --ulimit nproc=4096:4096
        --init-path /usr/bin/tini)
}

find_engine() {
    if docker info >/dev/null 2>&1; then
        engine=docker
    elif [ "$(id -u)" = 0 ] && [ -e /etc/apt/sources.list.d/debian.sources ]; then
        own_podman
    elif podman info >/dev/null 2>&1; then
        engine=podman
    else
        echo "container: skipped: needs docker or podman, or root on Debian to install podman" >&2
        exit 77
    fi
}

build_image() {
    local folders folder
    folders=$(python3 .ci/pipconf.py "$scratch")
    if [ "$engine" = podman ]; then
        for folder in $folders; do build_options+=(--volume "$folder:$folder:ro"); done
    fi
    "$engine" build "${build_options[@]}" \
        --secret "id=pip.conf,src=$scratch/pip.conf" --secret "id=ca.crt,src=$scratch/ca.crt" \
        --build-arg "TORCH_INDEX=${TORCH_INDEX:-}" --build-arg "TORCH_SHA256=${TORCH_SHA256:-}" \
        "$@" --tag "$image" .
}
