# The words of the project; CI uses the scripts behind them.

# Lists the words.
default:
    @just --list

# Builds sitefs and runs its demo.
demo *arguments:
    scripts/demo {{arguments}}

# Formatting, lints, all tests, the suites.
test:
    scripts/test

# Measures a mount beside this machine's own file system.
bench *arguments:
    scripts/bench {{arguments}}

# Formats everything.
fmt:
    cargo fmt --all

# Lints as CI does.
lint:
    cargo clippy --workspace --all-targets --all-features -- -D warnings
