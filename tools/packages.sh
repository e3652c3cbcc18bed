# husk: the Debian 12 packages that husk needs; sourced by quickstart and run-tests
# shellcheck shell=bash

husk_build_packages=(
  g++ cmake ninja-build pkg-config python3-minimal
  libfmt-dev libcli11-dev nlohmann-json3-dev libzydis-dev
  zlib1g-dev libbz2-dev liblzma-dev liblzo2-dev liblz4-dev libzstd-dev
  liburing-dev libnbd-dev libslirp-dev libglib2.0-dev
)
husk_guest_packages=(ca-certificates)
husk_test_packages=(
  libgtest-dev libgmock-dev libbenchmark-dev git nasm gdb acpica-tools dmidecode
  qemu-system-x86 qemu-utils nbdkit cpio expect tshark passt
)
husk_lint_packages=(clang-19 clang-tidy-19 clang-format-19 libclang-rt-19-dev)

# husk_install PACKAGES...: installs what is missing; needs root (or sudo) only then.
husk_install() {
  local missing=() name
  for name in "$@"; do
    dpkg-query -W -f '${Status}' "$name" 2>/dev/null | grep -q '^install ok installed' || missing+=("$name")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  echo "installing: ${missing[*]}"
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { echo "these packages are missing and only root can install them: ${missing[*]}" >&2; return 1; }
    as_root=(sudo)
  fi
  "${as_root[@]}" apt-get update -qq
  DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}
