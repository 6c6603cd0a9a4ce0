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

# Formats everything.
fmt:
    cargo fmt --all

# Lints as CI does.
lint:
    cargo clippy --workspace --all-targets --all-features -- -D warnings
