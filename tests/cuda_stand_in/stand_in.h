// A stand-in for NVIDIA's driver (libcuda.so.1) and for the CUDA runtime (libcudart.so.13), which
// lets a CUDA build of torch believe in a card that is described here. "Device memory" is host
// memory, copies and fills are done, kernels are not run: each launch is checked as a driver checks
// it, and written down. Tests read the record.
//
// What it refuses, with CUDA's own error codes: a module without code for the card; more shared
// memory than a kernel was allowed, or may be allowed; grids, blocks and registers beyond the
// limits; cooperative launches that are not resident; a stream of another device; while a stream is
// captured, what a capture does not allow. Errors can be ordered besides.
//
// Where it ends: libraries of NVIDIA that talk to the driver by themselves (cuDNN, NCCL, cuSOLVER,
// ...) are not served; cuBLAS is replaced by functions that write down their name. No value that a
// kernel would have computed is right.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace stand_in {

// A card as far as launches depend on it.
struct Card {
    const char* name;
    int major, minor, processors, shared_per_block, shared_per_processor, threads_per_processor,
        level_two;
};

// By number. The cards are those that STAND_IN_CARDS names, "H100" by default.
int count_of_cards();
const Card& card(int device);

// The device of this host thread.
extern thread_local int current_device;

// An error that was ordered for a call by stand_in_fault, or 0. Once a context has failed, every
// call has that error.
int ordered(const char* call);

// A note in the record: a JSON object's members, without its braces.
void note(const std::string& members);
std::string member(const char* name, const std::string& value);
std::string member(const char* name, int64_t value);

// Memory that was handed out, by address; null where none was.
struct Allocation {
    size_t bytes;
    int device;  // -1: page-locked memory of the host
    void* start;
};
void* allocate(size_t bytes, int device);
bool release(void* start);
const Allocation* find(const void* address);

// Architectures of a module: of its machine code and of its PTX, as 90.
struct Code {
    int architecture;
    bool ptx;
};
// The code in a module that a card runs, as the driver chooses it; {0, false} where there is none.
Code choose_code(const Code* first, const Code* last, int device);

// What all launches have in common, whoever makes them.
struct Launch {
    const char* kernel;
    Code code;
    unsigned grid[3], block[3];
    size_t shared;
    int allowed_shared;  // dynamic, of the kernel on this device
    int registers;       // of a thread
    bool cooperative;
    void* stream;
    std::string argument = "";  // what a kernel was given, where it is written down
};
// The error of a launch as a number of CUDA's, after it was written down.
int check_and_note(const Launch& launch);

// A stream's device, and whether it is captured; the null stream is of every device.
struct Stream {
    int device;
    bool captured;
    uint64_t nodes;  // of the graph that is being captured
};
Stream* stream_of(void* stream);
void* new_stream(int device);
bool any_captured();

}  // namespace stand_in

// For ctypes.
extern "C" {
// The record since the last call: a JSON object a line.
const char* stand_in_take();
// Orders an error for the next `times` calls of a function ("launch", "launch of plastikern": of a
// kernel); `sticky`: it ends the context, as an illegal address does.
void stand_in_fault(const char* call, int error, int times, int sticky);
// Launches may use so many processors only, as in a green context; 0: all.
void stand_in_limit_processors(int count);
void stand_in_reset();
// How many bytes of device memory were handed out from an address on; 0 where none were.
int64_t stand_in_bytes_behind(int64_t address);
// Writes down the name of a function that is there in name only.
void stand_in_call(const char* name);
}
