# make test     the tests, in a virtual environment of their own (.venv)
# make cover    the same with coverage of the library, the monitor and the command line
# make torture  attacks on every promise, at full size, and a table of what came of them
# make bench    every figure that README.md promises, as ratios taken in one run
# make lint     a strict type check, and a look for mistakes
# make install  PREFIX=/usr/local: the command `nodejobs`
# make ansible  .venv-ansible, for the test of examples/ansible (skipped without it)
# make wheel    dist/nodejobs-*.whl: `import nodejobs` and the command `nodejobs`

PYTHON ?= python3
PREFIX ?= /usr/local
VENV = .venv
RUN = $(VENV)/bin/python
ANSIBLE = .venv-ansible

all: test

# Without ensurepip (Debian splits it off) the pip of $(PYTHON) fills the environment from outside.
$(VENV)/ready: Makefile
	rm -rf $(VENV)
	$(PYTHON) -m venv --without-pip $(VENV)
	$(PYTHON) -m pip --python $(RUN) install --quiet pytest pytest-cov || { \
		$(PYTHON) -m venv --clear $(VENV) && $(RUN) -m pip install --quiet pytest pytest-cov; }
	touch $@

test: $(VENV)/ready
	$(RUN) -m pytest -q -rs test_nodejobs.py

cover: $(VENV)/ready
	rm -f .coverage .coverage.*
	$(RUN) -m pytest -q -rs --cov --cov-config=.coveragerc --cov-fail-under=95 test_nodejobs.py

bench: $(VENV)/ready
	$(RUN) examples/benchmark.py

torture: $(VENV)/ready
	$(RUN) examples/torture

lint: $(VENV)/ready
	$(PYTHON) -m pip --python $(RUN) install --quiet mypy==2.4.1 pyflakes==4.1.0
	$(RUN) -m mypy --strict nodejobs.py
	$(RUN) -m pyflakes nodejobs.py test_nodejobs.py examples/*.py examples/torture/*.py

# pip takes the newest release that this Python can run.
$(ANSIBLE)/ready:
	rm -rf $(ANSIBLE)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 8) and "Ansible needs Python 3.8 or newer")'
	$(PYTHON) -m venv --without-pip $(ANSIBLE)
	$(PYTHON) -m pip --python $(ANSIBLE)/bin/python install --quiet ansible-core || { \
		$(PYTHON) -m venv --clear $(ANSIBLE) && $(ANSIBLE)/bin/python -m pip install --quiet ansible-core; }
	touch $@

ansible: $(ANSIBLE)/ready

install:
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 755 nodejobs.py $(DESTDIR)$(PREFIX)/bin/nodejobs

wheel:
	rm -rf build dist
	mkdir -p build/wheel
	cp nodejobs.py README.md LICENSE .packaging/pyproject.toml build/wheel
	$(PYTHON) -m pip wheel --quiet --no-deps --wheel-dir dist build/wheel

clean:
	rm -rf $(VENV) $(ANSIBLE) build dist .coverage .coverage.* .pytest_cache .mypy_cache __pycache__ examples/__pycache__

.PHONY: all test cover torture bench lint ansible install wheel clean
