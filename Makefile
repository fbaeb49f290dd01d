# Few targets, each with its reason. `make check` is what .ci/run runs.

# What the binary says of itself; plain "devel" outside of a git checkout.
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null)
ROUNDS  ?= 20
ROLES   ?= one
FUZZTIME ?= 20s
GOFLAGS_BUILD := -trimpath -ldflags '-X main.version=$(VERSION)'

# No cgo: one static binary, and the same build everywhere. The race detector is
# the exception, see check.
export CGO_ENABLED = 0

# `make image` gives IMAGE:VERSION and IMAGE:latest.
IMAGE  ?= vcsync
DOCKER ?= docker

.PHONY: build image compose-test run test check race chaos fuzz clean

# The first target, so that plain `make` gives the one binary there is.
build:
	go build $(GOFLAGS_BUILD) -o bin/vcsync ./cmd/vcsync

# The container image, out of a folder that holds only what goes into it. The
# folders are there to give new volumes their owner. A tag may not hold what a
# version can, such as +.
image: build
	rm -rf bin/image
	mkdir -p bin/image $(addprefix bin/image/folders/,data keys/broker keys/control keys/producer keys/consumer)
	cp bin/vcsync deploy/docker/Dockerfile bin/image/
	$(DOCKER) build --build-arg VERSION='$(or $(VERSION),devel)' --build-arg REVISION='$(shell git rev-parse HEAD 2>/dev/null)' \
		-t $(IMAGE):$(or $(subst +,-,$(VERSION)),devel) -t $(IMAGE):latest bin/image

# The proof that the fleet of docker-compose.yml heals, on a real Docker. COMPOSE
# may be "docker compose".
COMPOSE ?= docker-compose
compose-test: image
	go run ./e2e/compose -docker '$(DOCKER)' -compose '$(COMPOSE)'

# The demo: three stand-ins and two sync settings in the foreground. exec, so that
# no shell is left between make and vcsync. Ctrl-C reaches both. A SIGINT sent to
# make alone does not get past make, which then waits: the demo notices that.
run: build
	@exec bin/vcsync demo

# What everybody runs: no network, no root, no cgo, go test's own lines.
test:
	go test -timeout 20m ./...

# What runs under the race detector, which makes everything several times slower: the
# packages, and of the whole fleets those in which most happens at the same time.
# `make race` takes them all.
SLOW := TestAClusterOfThree|TestAMemberThatComesBack|TestTheLeasesAreWatchedAgain|TestScripts
RACED := TestSimulation|TestTheAccountsBalanceUnderLoad|TestTheAccountsOfARing|TestConsumersShare|TestOfTwoProducers|TestWho|TestASettingOff|TestAPlanOf|TestASettingIsOff|TestTheEndOfOneWait|TestABlackHole|TestAnOverloaded|TestARefusedObject|TestATypeThatDrips|TestAFeedOfOneType|TestAWriteThatLandsLate|TestARetryOfAConflict|TestADiscardWhile|TestAWatchSeesAgain|TestAWidened|TestAnEditAnAdd|TestARestart|TestAReactivated|TestDishonest|TestATargetThatBegins|TestAStrangersEvent|TestARun|TestADroppedRun|TestDriftIs|TestAWriteWaits|TestPinned|TestAnUndo|TestGrace|TestTheMeasureAtTheTarget|TestWhatIsInUse

# What must hold before a change goes in: the cheapest first, then the race
# detector (which needs cgo, and makes the simulation several times slower), then
# the tests as everybody runs them.
check:
	@unformatted=$$(gofmt -l $$(git ls-files --cached --others --exclude-standard '*.go')); \
	if [ -n "$$unformatted" ]; then echo "not formatted, run gofmt -w on:"; echo "$$unformatted"; exit 1; fi
	go vet ./...
	go tool staticcheck ./...
	CGO_ENABLED=1 go test -race -timeout 20m -skip '$(SLOW)' $$(go list ./... | grep -v '/e2e$$')
	CGO_ENABLED=1 go test -race -timeout 20m ./e2e -seeds 3 -run '$(RACED)'
	$(MAKE) test

# Everything under the race detector; half an hour.
race:
	CGO_ENABLED=1 go test -race -timeout 90m ./...

# The proof that nothing is lost: SIGKILL at random moments while changes flow. With
# ROLES=apart also SIGSTOP and cut networks, and with ROLES=frozen writers that are
# frozen in the middle of writes, and with ROLES=cluster three brokers that fail in
# turn. With ADMIN=1, and one or apart, somebody changes settings, pins and runs
# meanwhile.
chaos: build
	go run ./e2e/chaos -rounds $(ROUNDS) -roles $(ROLES) $(if $(ADMIN),-admin)

# A while of fuzzing for every fuzz target; an ordinary test runs only the seeds.
fuzz:
	@set -e; for pkg in $$(go list ./...); do \
		for f in $$(go test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
			echo "$$pkg $$f"; go test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 20x $$pkg; \
		done; \
	done

# What a build made. Data stays, the demo's too: only its owner knows whether the
# keys and the history in it are of worth.
clean:
	rm -rf bin
