# make test     the tests, in a virtual environment of their own (.venv)
# make cover    the same with coverage of the library, the monitor and the command line
# make check    what every change has to pass: lint, the tests, the attacks and the platforms in a quick cut
# make torture  attacks on every promise, and a table of what came of them; QUICK=1: a quick cut
# make matrix   the tests on every platform that can be had here (Pythons, bare hosts, the Pi, Windows), and a table
# make bench    every figure that README.md promises, as ratios taken in one run
# make lint     the weight, a strict type check, and a look for mistakes
# make install  PREFIX=/usr/local: the command `nodejobs`, compiled once: twice as fast as the script
# make web ansible   environments (.venv-web, .venv-ansible) for the tests of those examples, skipped without them
# make wheel    dist/nodejobs-*.whl: `import nodejobs` and the command `nodejobs`

PYTHON ?= python3
PREFIX ?= /usr/local
MATRIX_CACHE ?= $(HOME)/.cache/nodejobs-matrix
export MATRIX_CACHE
VENV = .venv
RUN = $(VENV)/bin/python

all: test

# Make a virtual environment, $(1), with some packages, $(2). Without ensurepip (Debian splits it off) the pip of
# $(PYTHON) fills it from outside.
define environment
rm -rf $(1)
$(PYTHON) -m venv --without-pip $(1)
$(PYTHON) -m pip --python $(1)/bin/python install --quiet $(2) || { \
	$(PYTHON) -m venv --clear $(1) && $(1)/bin/python -m pip install --quiet $(2); }
touch $(1)/ready
endef

$(VENV)/ready: Makefile
	$(call environment,$(VENV),pytest pytest-cov)

$(VENV)-web/ready: Makefile
	$(call environment,$(VENV)-web,fastapi uvicorn)

$(VENV)-ansible/ready: Makefile
	$(call environment,$(VENV)-ansible,ansible-core)

web: $(VENV)-web/ready

ansible: $(VENV)-ansible/ready

# Some tests at a time. Plain pytest does them one after another.
test: $(VENV)/ready
	$(RUN) .ci/side_by_side.py -q -rfEs test_nodejobs.py

check: QUICK = 1
check: MATRIX = --quick --jobs 2 --only oldest,newest,bookworm-minimal,windows-3.13
check: lint torture matrix test

cover: $(VENV)/ready
	rm -f .coverage .coverage.*
	$(RUN) -m pytest -q -rs --cov --cov-config=.coveragerc --cov-fail-under=95 test_nodejobs.py

bench: $(VENV)/ready
	$(RUN) examples/benchmark.py

torture: $(VENV)/ready
	$(RUN) examples/torture $(if $(QUICK),--quick)

matrix: $(VENV)/ready
	$(RUN) examples/matrix $(MATRIX)

lint: $(VENV)/ready
	$(PYTHON) -m pip --python $(RUN) install --quiet mypy==2.4.1 pyflakes==4.1.0
	$(PYTHON) .ci/weigh.py nodejobs.py
	$(RUN) -m mypy --strict nodejobs.py
	$(RUN) -m pyflakes nodejobs.py test_nodejobs.py .ci/*.py examples/*.py \
		examples/torture/*.py examples/matrix/*.py

install:
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/nodejobs
	install -m 644 nodejobs.py $(DESTDIR)$(PREFIX)/lib/nodejobs
	$(PYTHON) -m compileall -q -d $(PREFIX)/lib/nodejobs $(DESTDIR)$(PREFIX)/lib/nodejobs
	printf '%s\n' '#!/usr/bin/env python3' 'import sys' 'sys.path.insert(0, "$(PREFIX)/lib/nodejobs")' \
		'from nodejobs import main' 'sys.exit(main())' > $(DESTDIR)$(PREFIX)/bin/nodejobs
	chmod 755 $(DESTDIR)$(PREFIX)/bin/nodejobs

wheel:
	rm -rf build dist
	mkdir -p build/wheel
	cp nodejobs.py README.md LICENSE .packaging/pyproject.toml build/wheel
	$(PYTHON) -m pip wheel --quiet --no-deps --wheel-dir dist build/wheel

clean:
	rm -rf $(VENV) $(VENV)-web $(VENV)-ansible build dist .coverage .coverage.* .pytest_cache .mypy_cache __pycache__ \
		examples/__pycache__ examples/torture/__pycache__ examples/matrix/__pycache__

.PHONY: all test check web ansible cover torture matrix bench lint install wheel clean
