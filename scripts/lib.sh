# Shared by the scripts; source it, do not run it. Expects to be in the top folder of the repository.
#
# What takes long to build is kept outside the clone, in ${SITEFS_CACHE:-~/.cache/sitefs}.
CACHE=${SITEFS_CACHE:-$HOME/.cache/sitefs}

say() { printf '== %s\n' "$*" >&2; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

# as_root COMMAND...: with sudo unless we are root already
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        fail "run as root, or install sudo: cannot run $*"
    fi
}

# install_packages NAME...: the Debian packages that are missing
install_packages() {
    command -v dpkg-query >/dev/null || { say "not Debian or Ubuntu: please see to it that these are there: $*"; return 0; }
    missing=
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    say "installing$missing"
    as_root apt-get -o DPkg::Lock::Timeout=300 update -qq
    # shellcheck disable=SC2086
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -qq \
        --no-install-recommends $missing >/dev/null
}

BUILD_PACKAGES="libclang-dev clang fuse3 pkg-config g++ make curl ca-certificates git"

need_rust() {
    [ ! -f "$HOME/.cargo/env" ] || . "$HOME/.cargo/env"
    command -v cargo >/dev/null || fail "cargo is missing: install Rust from https://rustup.rs first"
}

# rocksdb_lib: RocksDB as a library, built once for all clones and all profiles
rocksdb_lib() {
    version=0.25.0
    lib=$CACHE/rocksdb-$version
    if [ ! -f "$lib/librocksdb.a" ] || [ ! -f "$lib/liblz4.a" ]; then
        say "building RocksDB once into $lib: about 15 minutes on two cores"
        build_rocksdb
    fi
    export ROCKSDB_LIB_DIR="$lib" ROCKSDB_STATIC=1
}

build_rocksdb() (
    seed=$CACHE/build/rocksdb-seed
    mkdir -p "$seed/src" "$lib"
    printf '[package]\nname = "rocksdb-seed"\nversion = "0.0.0"\nedition = "2021"\n[workspace]\n[dependencies]\nrocksdb = { version = "=%s", default-features = false, features = ["lz4", "bindgen-runtime"] }\n' \
        "$version" >"$seed/Cargo.toml"
    echo 'fn main() {}' >"$seed/src/main.rs"
    unset ROCKSDB_LIB_DIR ROCKSDB_STATIC
    cargo build --quiet --release --manifest-path "$seed/Cargo.toml" --target-dir "$seed/target"
    for name in librocksdb.a liblz4.a; do
        # The newest, should an older build be there as well.
        built=$(find "$seed/target/release/build" -name "$name" -printf '%T@ %p\n' | sort -n | tail -n 1 | cut -d' ' -f2-)
        [ -n "$built" ] || fail "the build of RocksDB left no $name"
        cp "$built" "$lib/$name.new"
        mv "$lib/$name.new" "$lib/$name"
    done
)

# prepare_build NAME: packages, RocksDB, and the build folder target-NAME in the cache
prepare_build() {
    install_packages $BUILD_PACKAGES
    need_rust
    rocksdb_lib
    export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$CACHE/target-$1}"
}

# wordpress_tree: the tree of Debian's package, unpacked into the cache; it is not installed
wordpress_tree() {
    tree=$CACHE/wordpress
    if [ ! -f "$tree/usr/share/wordpress/index.php" ]; then
        command -v apt-get >/dev/null || return 1
        say "fetching the WordPress package for the tests"
        rm -rf "$tree" && mkdir -p "$tree/deb"
        # apt drops root for downloads, so its user must be able to write here; falling back it only warns.
        (cd "$tree/deb" && apt-get -qq download wordpress 2>/dev/null) || return 1
        dpkg-deb -x "$tree"/deb/wordpress_*.deb "$tree" || return 1
    fi
    export SITEFS_TEST_WORDPRESS="$tree/usr/share/wordpress"
}
