# The front door. What each target does is in xtask/src, one file per verb; `cargo xtask` lists them.
# The target directory is shared by all clones of this user, so that a fresh one builds fast.
export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/stratavore/target

.PHONY: run test test-long lint bench install uninstall own

# Cargo goes by the times of files, so what another clone has built would pass for ours. Whoever
# comes after another clone makes its files new.
own:
	@mkdir -p "$(CARGO_TARGET_DIR)" && [ "$$(cat "$(CARGO_TARGET_DIR)/clone" 2>/dev/null)" = "$(CURDIR)" ] || \
	  { find . -path ./.git -prune -o -path ./target -prune -o -type f -exec touch {} + && \
	    echo "$(CURDIR)" >"$(CARGO_TARGET_DIR)/clone"; }

run test test-long lint bench install: own
run:
	@cargo xtask run
test:
	@cargo xtask test $(ARGS)
test-long:
	@cargo xtask test-long $(ARGS)
lint:
	@cargo xtask lint
bench:
	@cargo xtask bench $(ARGS)
install:
	@cargo xtask install $(if $(PREFIX),--prefix $(PREFIX))
uninstall:
	@cargo xtask uninstall $(if $(PREFIX),--prefix $(PREFIX))
