# tests/cuda_programs/smoke.cu with all it needs, compiled and run under both sanitizers: `make sanitize` in the root
# calls this there (tests/rules/sanitized.py has kernels of rules). The CPU kernels, which are what the others are compared with, are compiled without. NETWORKS: how many are drawn.
CXX = g++
NETWORKS = 100
BUILD := build/sanitized
FLAGS := -std=c++20 -O1 -g1 -ffunction-sections -DPLASTIKERN_EMULATED -Icsrc -Itests/cuda_emulator -Itests/cuda_programs
WARN := -Wall -Wextra -Wno-unknown-pragmas
thread_FLAGS := -fsanitize=thread -DPLASTIKERN_SCALAR=float
address_FLAGS := -fsanitize=address,undefined -fno-sanitize-recover=undefined -DPLASTIKERN_SCALAR=double
plain_FLAGS := -DPLASTIKERN_CAPABILITY=default
HEADERS := $(wildcard csrc/*.h csrc/*/*.h csrc/cuda/*.cuh tests/cuda_emulator/*.h tests/cuda_programs/*.h)
# The longest first.
SANITIZED := csrc/cuda/backward_kernels.cu csrc/cuda/forward_kernels.cu csrc/cuda/passes.cu csrc/cuda/sums.cu \
    csrc/cuda/plan.cpp tests/cuda_programs/smoke.cu tests/cuda_emulator/cuda_emulator.cpp
PLAIN := csrc/cpu/backward.cpp csrc/cpu/forward.cpp csrc/cpu/dispatch.cpp
KERNELS := csrc/cpu/connection_kernels.cpp
# Race detectors older than the system can need addresses that are not random.
UNRANDOM := $(shell setarch -R true 2>/dev/null && echo setarch -R)

.PHONY: sanitize run-thread run-address
.DELETE_ON_ERROR:

sanitize: run-thread run-address
	@echo "sanitize: no data race, no index out of range, and what the CPU computes"

run-thread run-address: run-%: $(BUILD)/%
	@echo "$*: $(filter -fsanitize=%,$($*_FLAGS))"
	@$(UNRANDOM) $< $(NETWORKS) || { echo "sanitize: FAILED ($*)"; exit 1; }

# What is not used needs nothing: the passes of the other scalar lack their kernels.
define program
$(BUILD)/$(1): $(SANITIZED:%=$(BUILD)/%.$(1).o) $(PLAIN:%=$(BUILD)/%.plain.o) $(KERNELS:%=$(BUILD)/%.$(2).o)
	$(CXX) $(filter -fsanitize=%,$($(1)_FLAGS)) -Wl,--gc-sections $$^ -o $$@
$(BUILD)/%.$(1).o: % $(HEADERS)
	@mkdir -p $$(@D)
	$(CXX) $(FLAGS) $(WARN) $($(1)_FLAGS) -x c++ -c $$< -o $$@
endef
$(eval $(call program,thread,float))
$(eval $(call program,address,double))

$(BUILD)/%.plain.o: % $(HEADERS)
	@mkdir -p $(@D)
	$(CXX) $(FLAGS) $(plain_FLAGS) -c $< -o $@
$(BUILD)/%.float.o: % $(HEADERS)
	@mkdir -p $(@D)
	$(CXX) $(FLAGS) $(plain_FLAGS) -DPLASTIKERN_SCALAR=float -c $< -o $@
$(BUILD)/%.double.o: % $(HEADERS)
	@mkdir -p $(@D)
	$(CXX) $(FLAGS) $(plain_FLAGS) -DPLASTIKERN_SCALAR=double -c $< -o $@
