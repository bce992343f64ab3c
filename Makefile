# The front door. What each target does is in xtask/src, one file per verb; `cargo xtask` lists them.
# The target directory is shared by all clones of this user, so that a fresh one builds fast.
export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/stratavore/target

.PHONY: run test test-long lint bench install uninstall

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
