// Executes CUDA C, as TVM emits it, on the CPU: one block after the other, each of its threads a fiber.
//
// The kernel is compiled with -fsanitize=thread: the compiler puts a call before every access to memory
// that another thread could see. The functions that it calls are usually those of ThreadSanitizer;
// here they are the ones at the end of "what an access is checked for". So every access is known before
// it happens: whether it lies in an array, whether its address is aligned, whether what it reads was ever
// written, and whether another thread has touched the same element since the last barrier. That last
// question has one answer whatever the order in which the threads happen to run, so no race is missed
// for being lucky.
//
// Threads that wait for each other (at a barrier of the block or of the warp, a shuffle, a warp matrix)
// must all be at the same place of the program's text; where they part, that is a finding. Of these,
// only the barriers order memory, as CUDA has it.
//
// What is not modelled: time, caches, and that the 32 threads of a warp run in step (a fiber runs from
// one barrier to the next). Local arrays are checked by -fsanitize=bounds.
#pragma once
#include <csetjmp>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <type_traits>

#include <dlfcn.h>
#include <sys/mman.h>
#include <ucontext.h>

#define PLAIN __attribute__((no_sanitize("thread", "bounds"), noinline))

namespace simulator {

// ------------------------------------------------------------------------- what Python hands over

struct Array {       // a parameter of the kernel, or, where data is null, an array in shared memory
  void* data;
  uint64_t bytes;
  uint32_t element;  // bytes
  uint32_t written;  // out: whether anything was written to it
};

struct Launch {
  uint32_t grid[3], block[3];
  uint32_t order;           // of the threads: 0 ascending, 1 descending, else shuffled by this seed
  uint32_t chosen_count;    // 0: every block
  const uint32_t* chosen;   // blocks, numbered x fastest
};

struct Access {  // one record of the trace
  uint32_t site;  // where in the program: offset of the return address
  uint32_t offset;  // bytes from the start of the array
  uint16_t thread;
  uint8_t array;
  uint8_t size;  // bytes; + 128 for a write
};

struct Trace {
  Access* accesses;
  uint64_t capacity, count;  // count may exceed capacity: then some were not recorded
};

enum Kind : uint32_t {
  NOTHING, OUTSIDE, MISALIGNED, UNWRITTEN, READ_AFTER_WRITE, WRITE_AFTER_READ, OVERWRITTEN,
  WRITE_AFTER_WRITE, DIVERGENCE, WARP_DIVERGENCE, LOCAL_OUTSIDE, TWO_BARRIERS
};

enum Meeting : uint32_t { BARRIER, SHUFFLE, MATRIX };  // what the threads of a warp wait for
enum Elsewhere : uint32_t { RETURNED, AT_THE_BLOCKS_BARRIER, AT_ANOTHER_PLACE, OUT_OF_ITS_MASK };

struct Finding {
  uint32_t kind;
  uint32_t write;                   // whether the access that found it is a write
  uint32_t site, other_site;        // of the access, and of the one it collides with
  uint32_t array;
  uint32_t size;
  int64_t offset;                   // bytes from the start of the array
  uint32_t block, thread;
  uint32_t other_block, other_thread;
  uint32_t waiting, elsewhere;      // of a divergence: how many threads
  uint32_t meeting, where;          // of a divergence in a warp
};

// ------------------------------------------------------------------------------------------ state

struct Index { unsigned x, y, z; };

static struct { Index thread, block, block_extent, grid_extent; } indices;  // threadIdx and so on

struct Touch {  // who touched an element, and when: thread is 1 + its number in the whole grid
  uint32_t thread, phase, site, epoch;
};

struct Cell {
  Touch writer, reader, other_reader;  // the readers are two different threads
  bool again;                          // whether it has been written in an earlier phase as well
};

struct Region {
  char* base;
  uint64_t bytes;
  uint32_t element;
  bool shared, written;
  Cell* cells;
};

enum State { READY, AT_BLOCK_BARRIER, AT_WARP_MEETING, ASKING_WHO_IS_HERE, FINISHED };

struct Fiber {
  jmp_buf here;
  ucontext_t start;
  bool started;
  State state;
  uint32_t place;    // where it waits, as a number in the program's text: the compiler may copy calls
  uint32_t site;     // and as an address
  Meeting meeting;
  uint32_t mask;     // of the lanes that it waits for, itself included
  uint32_t present;  // of the lanes that it last met
  uint64_t offered, settled;  // to a shuffle; what all brought is settled at once when they have met
  Index index;
};

static const uint64_t GAP = 4 << 20;     // between arrays, so that an index that runs over is found out
static const uint64_t STACK = 640 << 10;  // a GPU gives a thread 512 KiB of local memory; the rest is the frame's
static const uint64_t GUARD = 64 << 10;   // of it, at its low end, where nothing may be touched
static const unsigned MOST_THREADS = 1024, MOST_REGIONS = 64, WARP = 32;

static Region regions[MOST_REGIONS];
static unsigned region_count, first_shared;
static Fiber fibers[MOST_THREADS];
static char* stacks;
static jmp_buf scheduler;
static unsigned thread_count, current, block_number;
static uint32_t phase;
// By thread, the epoch of each lane of its warp that a barrier of the warp has ordered before it; its
// own is the one that it is in.
static uint32_t known[MOST_THREADS][WARP];
static Finding* finding;
static Finding unwritten;  // the first read of shared memory that nobody wrote, until the next barrier
static Trace* trace;
static void (*body)();
static uintptr_t origin;  // where this library was loaded

PLAIN static uint32_t site_of(const void* address) { return (uint32_t)((uintptr_t)address - origin); }
PLAIN static void* shared(unsigned number) { return regions[first_shared + number].base; }

[[noreturn]] PLAIN static void stop(Kind kind, const void* pc) {
  finding->kind = kind;
  finding->site = site_of(pc);
  finding->block = block_number;
  finding->thread = current;
  _longjmp(scheduler, 2);
}

// -------------------------------------------------------------------- what an access is checked for

PLAIN static bool ordered(const Touch& touch) {
  unsigned thread = touch.thread - 1, mine = block_number * thread_count + current;
  if (thread == mine) return true;
  if (thread / thread_count != block_number) return false;  // nothing orders two blocks
  if (touch.phase < phase) return true;
  thread %= thread_count;
  return thread / WARP == current / WARP && touch.epoch <= known[current][thread % WARP];
}

[[noreturn]] PLAIN static void collide(Kind kind, const Touch& other, const void* pc) {
  finding->other_site = other.site;
  finding->other_block = (other.thread - 1) / thread_count;
  finding->other_thread = (other.thread - 1) % thread_count;
  stop(kind, pc);
}

// A read that came before the write it should have waited for; told from the reader's side.
[[noreturn]] PLAIN static void collide_with_early_reader(const Touch& reader, const void* pc) {
  finding->kind = READ_AFTER_WRITE;
  finding->write = false;
  finding->site = reader.site;
  finding->block = (reader.thread - 1) / thread_count;
  finding->thread = (reader.thread - 1) % thread_count;
  finding->other_site = site_of(pc);
  finding->other_block = block_number;
  finding->other_thread = current;
  _longjmp(scheduler, 2);
}

PLAIN static void touch(Region& region, Cell& cell, bool write, const void* pc) {
  Touch now = {block_number * thread_count + current + 1, phase, site_of(pc),
               known[current][current % WARP]};
  if (cell.writer.thread && !ordered(cell.writer)) {
    // Whoever reads an element between its second filling and a barrier wants the first filling.
    Kind kind = write ? WRITE_AFTER_WRITE : cell.again ? OVERWRITTEN : READ_AFTER_WRITE;
    collide(kind, cell.writer, pc);
  }
  if (write) {
    for (const Touch* reader : {&cell.reader, &cell.other_reader})
      if (reader->thread && !ordered(*reader)) {
        if (region.shared && !cell.writer.thread) collide_with_early_reader(*reader, pc);
        collide(WRITE_AFTER_READ, *reader, pc);
      }
    cell.again |= cell.writer.thread && cell.writer.phase < phase;
    cell.writer = now;
    return;
  }
  if (region.shared && !cell.writer.thread && !unwritten.kind) {
    // If a thread writes it before the next barrier, that is the better explanation.
    finding->kind = UNWRITTEN;
    finding->site = now.site;
    finding->block = block_number;
    finding->thread = current;
    unwritten = *finding;
    finding->kind = NOTHING;
  }
  if (cell.reader.thread == now.thread || !cell.reader.thread) {
    cell.reader = now;
  } else if (cell.other_reader.thread == now.thread || !cell.other_reader.thread) {
    cell.other_reader = now;
  } else if (ordered(cell.reader)) {  // a barrier has passed since: the write to come is safe from it
    cell.reader = now;
  } else {
    cell.other_reader = now;
  }
}

PLAIN static Region* region_at(uintptr_t address) {
  static Region* last = regions;
  if (address - (uintptr_t)last->base < last->bytes) return last;
  for (unsigned n = 0; n < region_count; ++n)
    if (address - (uintptr_t)regions[n].base < regions[n].bytes) return last = &regions[n];
  return nullptr;
}

PLAIN static Region* nearest(uintptr_t address) {
  Region* best = regions;
  uint64_t least = UINT64_MAX;
  for (unsigned n = 0; n < region_count; ++n) {
    uintptr_t base = (uintptr_t)regions[n].base, end = base + regions[n].bytes;
    uint64_t distance = address < base ? base - address : address - end;
    if (distance < least) { least = distance; best = &regions[n]; }
  }
  return best;
}

PLAIN static void access(uintptr_t address, unsigned size, bool write, const void* pc) {
  if (address - (uintptr_t)stacks < thread_count * STACK) return;  // a thread's own
  if (address - (uintptr_t)&indices < sizeof indices) return;
  Region* region = region_at(address);
  finding->write = write;
  finding->size = size;
  if (!region || address + size > (uintptr_t)region->base + region->bytes) {
    if (!region) region = nearest(address);
    finding->array = (uint32_t)(region - regions);
    finding->offset = (int64_t)(address - (uintptr_t)region->base);
    stop(OUTSIDE, pc);
  }
  uint64_t offset = address - (uintptr_t)region->base;
  finding->array = (uint32_t)(region - regions);
  finding->offset = (int64_t)offset;
  if (size <= 16 && offset % size) stop(MISALIGNED, pc);
  for (uint64_t at = offset / region->element; at * region->element < offset + size; ++at) {
    finding->offset = (int64_t)(at * region->element);
    touch(*region, region->cells[at], write, pc);
  }
  region->written |= write;
  if (trace) {
    if (trace->count < trace->capacity)
      trace->accesses[trace->count] = {site_of(pc), (uint32_t)offset, (uint16_t)current,
                                       (uint8_t)(region - regions), (uint8_t)(size + (write ? 128 : 0))};
    ++trace->count;
  }
}

}  // namespace simulator

// The compiler's calls.
#define SIMULATOR_ACCESS(name, size, write)                                                  \
  extern "C" PLAIN void __tsan_##name(void* address) {                                       \
    simulator::access((uintptr_t)address, size, write, __builtin_return_address(0));         \
  }
SIMULATOR_ACCESS(read1, 1, false) SIMULATOR_ACCESS(write1, 1, true)
SIMULATOR_ACCESS(read2, 2, false) SIMULATOR_ACCESS(write2, 2, true)
SIMULATOR_ACCESS(read4, 4, false) SIMULATOR_ACCESS(write4, 4, true)
SIMULATOR_ACCESS(read8, 8, false) SIMULATOR_ACCESS(write8, 8, true)
SIMULATOR_ACCESS(read16, 16, false) SIMULATOR_ACCESS(write16, 16, true)
SIMULATOR_ACCESS(unaligned_read2, 2, false) SIMULATOR_ACCESS(unaligned_write2, 2, true)
SIMULATOR_ACCESS(unaligned_read4, 4, false) SIMULATOR_ACCESS(unaligned_write4, 4, true)
SIMULATOR_ACCESS(unaligned_read8, 8, false) SIMULATOR_ACCESS(unaligned_write8, 8, true)
SIMULATOR_ACCESS(unaligned_read16, 16, false) SIMULATOR_ACCESS(unaligned_write16, 16, true)
extern "C" PLAIN void __tsan_read_range(void* address, uintptr_t size) {
  simulator::access((uintptr_t)address, (unsigned)size, false, __builtin_return_address(0));
}
extern "C" PLAIN void __tsan_write_range(void* address, uintptr_t size) {
  simulator::access((uintptr_t)address, (unsigned)size, true, __builtin_return_address(0));
}
extern "C" PLAIN void __tsan_func_entry(void*) {}
extern "C" PLAIN void __tsan_func_exit() {}
extern "C" PLAIN void __tsan_init() {}
extern "C" PLAIN void __tsan_vptr_update(void**, void*) {}
extern "C" PLAIN void __ubsan_handle_out_of_bounds(void*, uintptr_t) {
  simulator::stop(simulator::LOCAL_OUTSIDE, __builtin_return_address(0));
}
extern "C" PLAIN void __ubsan_handle_out_of_bounds_abort(void*, uintptr_t) {
  simulator::stop(simulator::LOCAL_OUTSIDE, __builtin_return_address(0));
}

// ----------------------------------------------------------------------------- threads and barriers

#define threadIdx simulator::indices.thread
#define blockIdx simulator::indices.block
#define blockDim simulator::indices.block_extent
#define gridDim simulator::indices.grid_extent

namespace simulator {

PLAIN static void wait(State state, uint32_t place, uint32_t mask, const void* pc) {
  Fiber& fiber = fibers[current];
  fiber.state = state;
  fiber.place = place;
  fiber.mask = mask;
  fiber.site = site_of(pc);
  if (!_setjmp(fiber.here)) _longjmp(scheduler, 1);
}

PLAIN static void meet(Meeting meeting, uint32_t place, uint32_t mask, const void* pc) {
  fibers[current].meeting = meeting;
  wait(AT_WARP_MEETING, place, mask, pc);
}

PLAIN static void block_barrier(uint32_t place) {
  wait(AT_BLOCK_BARRIER, place, ~0u, __builtin_return_address(0));
}

template <uint32_t place> PLAIN static void warp_barrier(uint32_t mask = ~0u) {
  meet(BARRIER, place, mask, __builtin_return_address(0));
}

// The lanes that have come here together: all that will, before the warp goes on.
PLAIN static uint32_t who_is_here(uint32_t place) {
  wait(ASKING_WHO_IS_HERE, place, ~0u, __builtin_return_address(0));
  return fibers[current].present;
}

PLAIN static void enter() {
  body();
  fibers[current].state = FINISHED;
  _longjmp(scheduler, 1);
}

PLAIN static bool resume(unsigned thread) {  // false if something was found
  Fiber& fiber = fibers[current = thread];
  threadIdx = fiber.index;
  fiber.state = READY;
  int came = _setjmp(scheduler);
  if (came) return came == 1;
  if (fiber.started) _longjmp(fiber.here, 1);
  fiber.started = true;
  setcontext(&fiber.start);
  abort();
}

static uint64_t drawn;  // the state of draw: set anew by each run, so that a run can be repeated

PLAIN static uint64_t draw() {  // splitmix64, whose state may be any number, small seeds too
  uint64_t mixed = drawn += 0x9E3779B97F4A7C15ull;
  mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9ull;
  mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EBull;
  return mixed ^ mixed >> 31;
}

PLAIN static void arrange(unsigned* sequence, uint32_t order) {
  for (unsigned t = 0; t < thread_count; ++t) sequence[t] = order == 1 ? thread_count - 1 - t : t;
  if (order < 2) return;
  for (unsigned t = thread_count; t > 1; --t) {
    unsigned other = (unsigned)(draw() % t), kept = sequence[t - 1];
    sequence[t - 1] = sequence[other];
    sequence[other] = kept;
  }
}

PLAIN static bool diverged(Kind kind, unsigned waiting, unsigned elsewhere, unsigned witness) {
  finding->kind = kind;
  finding->waiting = waiting;
  finding->elsewhere = elsewhere;
  finding->block = block_number;
  finding->thread = witness;
  finding->site = fibers[witness].site;
  return false;
}

PLAIN static bool together(const Fiber& one, const Fiber& other) {
  return one.state == other.state && one.place == other.place && one.mask == other.mask;
}

// What all threads of a warp's meeting did before it comes before what any of them does after it.
PLAIN static void order_memory(unsigned first, uint32_t mask) {
  uint32_t latest[WARP] = {};
  for (unsigned lane = 0; lane < WARP; ++lane)
    for (unsigned of = 0; mask >> lane & 1 && of < WARP; ++of)
      if (known[first + lane][of] > latest[of]) latest[of] = known[first + lane][of];
  for (unsigned lane = 0; lane < WARP; ++lane)
    if (mask >> lane & 1) {
      memcpy(known[first + lane], latest, sizeof latest);
      ++known[first + lane][lane];
    }
}

PLAIN static void let_go(unsigned first, uint32_t mask) {
  for (unsigned lane = 0; lane < WARP; ++lane)
    if (mask >> lane & 1) {
      Fiber& fiber = fibers[first + lane];
      fiber.state = READY;
      fiber.present = mask;
      fiber.settled = fiber.offered;
    }
}

// Let go whoever of a warp has met all it waits for. False: some wait, and can never go on.
PLAIN static bool release_warp(unsigned first, bool& any) {
  unsigned lanes = thread_count - first < WARP ? thread_count - first : WARP, stuck = WARP;
  uint32_t all = lanes < WARP ? (1u << lanes) - 1 : ~0u, stuck_with = 0;
  bool some = false;
  for (unsigned lane = 0; lane < lanes; ++lane) {
    const Fiber& fiber = fibers[first + lane];
    if (fiber.state != AT_WARP_MEETING && fiber.state != ASKING_WHO_IS_HERE) continue;
    uint32_t here = 0;
    for (unsigned other = 0; other < lanes; ++other)
      if (together(fiber, fibers[first + other])) here |= 1u << other;
    if (fiber.state == AT_WARP_MEETING && (fiber.mask & all) != here) {
      if (stuck == WARP) stuck = lane, stuck_with = here;
      continue;
    }
    if (fiber.state == AT_WARP_MEETING && fiber.meeting == BARRIER) order_memory(first, here);
    let_go(first, here);
    some = true;
  }
  any |= some;
  if (some || stuck == WARP) return true;
  const Fiber& fiber = fibers[first + stuck];
  uint32_t missing = fiber.mask & all & ~stuck_with, wrong = stuck_with & ~fiber.mask;
  finding->meeting = fiber.meeting;
  finding->where = OUT_OF_ITS_MASK;
  if (!wrong) {
    const Fiber& other = fibers[first + __builtin_ctz(missing)];
    finding->where = other.state == FINISHED           ? RETURNED
                     : other.state == AT_BLOCK_BARRIER ? AT_THE_BLOCKS_BARRIER
                                                       : AT_ANOTHER_PLACE;
    finding->other_site = other.state == FINISHED ? 0 : other.site;
  }
  return diverged(WARP_DIVERGENCE, (unsigned)__builtin_popcount(stuck_with),
                  (unsigned)__builtin_popcount(wrong ? wrong : missing), first + stuck);
}

PLAIN static bool release_warps(bool& any) {
  for (unsigned first = 0; first < thread_count; first += WARP)
    if (!release_warp(first, any)) return false;
  return true;
}

PLAIN static bool run_block(uint32_t order) {
  static unsigned sequence[MOST_THREADS];
  for (unsigned t = 0; t < thread_count; ++t) {
    Fiber& fiber = fibers[t];
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = stacks + t * STACK + GUARD;
    fiber.start.uc_stack.ss_size = STACK - GUARD;
    fiber.start.uc_link = nullptr;
    makecontext(&fiber.start, enter, 0);
    fiber.started = false;
    fiber.state = READY;
    memset(known[t], 0, sizeof known[t]);
    known[t][t % WARP] = 1;
  }
  ++phase;
  for (;;) {
    arrange(sequence, order);
    for (unsigned n = 0; n < thread_count; ++n)
      if (fibers[sequence[n]].state == READY && !resume(sequence[n])) return false;
    bool again = false;
    if (!release_warps(again)) return false;
    if (again) continue;
    unsigned waiting = 0, finished = 0, witness = 0;
    for (unsigned t = 0; t < thread_count; ++t) {
      if (fibers[t].state == AT_BLOCK_BARRIER) { ++waiting; witness = t; }
      finished += fibers[t].state == FINISHED;
    }
    if (unwritten.kind) {
      *finding = unwritten;
      return false;
    }
    if (finished == thread_count) return true;
    if (finished) return diverged(DIVERGENCE, waiting, finished, witness);
    unsigned elsewhere = 0, other = 0;
    for (unsigned t = 0; t < thread_count; ++t)
      if (!together(fibers[t], fibers[witness])) { ++elsewhere; other = t; }
    if (elsewhere) {
      finding->other_site = fibers[other].site;
      return diverged(TWO_BARRIERS, waiting - elsewhere, elsewhere, witness);
    }
    for (unsigned t = 0; t < thread_count; ++t) fibers[t].state = READY;
    ++phase;
  }
}

PLAIN static void* reserve(uint64_t bytes) {
  void* found = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return found == MAP_FAILED ? nullptr : found;
}

// Runs one kernel. Returns false where memory could not be had; what was found is in `found`.
PLAIN static bool run(void (*kernel)(), Array* arrays, uint32_t count, const Launch& launch, Trace* into,
                      Finding* found, void** arguments) {
  Dl_info information;
  dladdr((void*)&site_of, &information);
  origin = (uintptr_t)information.dli_fbase;
  thread_count = launch.block[0] * launch.block[1] * launch.block[2];
  uint64_t total = thread_count * STACK + GAP;
  for (uint32_t n = 0; n < count; ++n) total += (arrays[n].bytes + 255) / 256 * 256 + GAP;
  char* arena = (char*)reserve(total);
  if (!arena) return false;
  stacks = arena;
  for (unsigned t = 0; t < thread_count; ++t)
    if (mprotect(stacks + t * STACK, GUARD, PROT_NONE)) return munmap(arena, total), false;
  char* next = arena + thread_count * STACK + GAP;
  region_count = count;
  first_shared = count;
  bool enough = true;
  for (uint32_t n = 0; n < count; ++n) {
    const Array& array = arrays[n];
    uint64_t cells = array.bytes / array.element;
    regions[n] = {next, array.bytes, array.element, !array.data, false,
                  (Cell*)reserve(cells * sizeof(Cell) + 1)};
    enough &= regions[n].cells != nullptr;
    next += (array.bytes + 255) / 256 * 256 + GAP;
    if (array.data) {
      memcpy(regions[n].base, array.data, array.bytes);
      arguments[n] = regions[n].base;
    } else if (first_shared == count) {
      first_shared = n;
    }
  }
  finding = found;
  trace = into;
  body = kernel;
  phase = 0;
  unwritten = Finding();
  drawn = launch.order;
  gridDim = {launch.grid[0], launch.grid[1], launch.grid[2]};
  blockDim = {launch.block[0], launch.block[1], launch.block[2]};
  for (unsigned t = 0; t < thread_count; ++t)
    fibers[t].index = {t % blockDim.x, t / blockDim.x % blockDim.y, t / blockDim.x / blockDim.y};
  uint32_t blocks = launch.chosen_count ? launch.chosen_count : gridDim.x * gridDim.y * gridDim.z;
  for (uint32_t n = 0; enough && n < blocks; ++n) {
    block_number = launch.chosen_count ? launch.chosen[n] : n;
    blockIdx = {block_number % gridDim.x, block_number / gridDim.x % gridDim.y,
                block_number / gridDim.x / gridDim.y};
    for (unsigned r = first_shared; r < region_count; ++r) {  // undefined when a block starts: NaN
      memset(regions[r].base, 0xFF, regions[r].bytes);
      memset((void*)regions[r].cells, 0, regions[r].bytes / regions[r].element * sizeof(Cell));
    }
    if (!run_block(launch.order)) break;
  }
  for (uint32_t n = 0; n < count; ++n) {
    if (arrays[n].data && regions[n].written) memcpy(arrays[n].data, regions[n].base, arrays[n].bytes);
    arrays[n].written = regions[n].written;
    if (regions[n].cells) munmap(regions[n].cells, arrays[n].bytes / arrays[n].element * sizeof(Cell) + 1);
  }
  munmap(arena, total);
  return enough;
}

}  // namespace simulator

// ------------------------------------------------------------------------------ the words of CUDA C

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define __align__(n) alignas(n)

typedef unsigned char uchar;
static const int warpSize = 32;

// Each place of the program's text where threads wait has a number of its own.
#define __syncthreads() simulator::block_barrier(__COUNTER__)
#define __syncwarp(...) simulator::warp_barrier<__COUNTER__>(__VA_ARGS__)
#define __activemask() simulator::who_is_here(__COUNTER__)

#define SIMULATOR_VECTOR(type, name, align, ...) struct alignas(align) name { type __VA_ARGS__; };
SIMULATOR_VECTOR(float, float2, 8, x, y) SIMULATOR_VECTOR(float, float3, 4, x, y, z)
SIMULATOR_VECTOR(float, float4, 16, x, y, z, w)
SIMULATOR_VECTOR(int, int2, 8, x, y) SIMULATOR_VECTOR(int, int3, 4, x, y, z)
SIMULATOR_VECTOR(int, int4, 16, x, y, z, w)
SIMULATOR_VECTOR(unsigned, uint1, 4, x) SIMULATOR_VECTOR(unsigned, uint2, 8, x, y)
SIMULATOR_VECTOR(unsigned, uint4, 16, x, y, z, w)
static inline float2 make_float2(float a, float b) { return {a, b}; }
static inline float4 make_float4(float a, float b, float c, float d) { return {a, b, c, d}; }
static inline int2 make_int2(int a, int b) { return {a, b}; }
static inline int4 make_int4(int a, int b, int c, int d) { return {a, b, c, d}; }
static inline uint2 make_uint2(unsigned a, unsigned b) { return {a, b}; }
static inline uint4 make_uint4(unsigned a, unsigned b, unsigned c, unsigned d) { return {a, b, c, d}; }

// Inlined always: between two loads of the same element there is no call then, and one load is left,
// as NVIDIA's compiler would leave it.
#define INLINED __attribute__((always_inline)) static inline
template <class T> INLINED T max(T a, T b) { return a > b ? a : b; }
template <class T> INLINED T min(T a, T b) { return a < b ? a : b; }
INLINED float rsqrtf(float x) { return 1.0f / sqrtf(x); }
#define __expf(x) expf(x)  // a name of glibc's own
#define __logf(x) logf(x)
static inline float __ldg(const float* p) { return *p; }
#define CUDART_INF_F __builtin_inff()
#define CUDART_NAN_F __builtin_nanf("")

// ---- warp shuffles. A lane that has not come has nothing to give: what is taken of it is NaN.
namespace simulator {
PLAIN static unsigned lane() { return current % WARP; }

template <class T> PLAIN static T shuffle(uint32_t place, unsigned mask, T value, unsigned from, bool taken) {
  static_assert(sizeof value <= 8, "");
  Fiber& fiber = fibers[current];
  memcpy(&fiber.offered, &value, sizeof value);
  meet(SHUFFLE, place, mask, __builtin_return_address(0));
  if (!taken) return value;
  if (from < WARP && fiber.present >> from & 1)
    memcpy(&value, &fibers[current / WARP * WARP + from].settled, sizeof value);
  else
    memset(&value, 0xFF, sizeof value);
  return value;
}
template <class T> INLINED T from_lane(uint32_t place, unsigned mask, T v, int s, int w = 32) {
  return shuffle(place, mask, v, (lane() & ~(w - 1)) + (s & (w - 1)), true);
}
template <class T> INLINED T from_below(uint32_t place, unsigned mask, T v, unsigned d, int w = 32) {
  return shuffle(place, mask, v, lane() + d, (lane() & (w - 1)) + d < (unsigned)w);
}
template <class T> INLINED T from_above(uint32_t place, unsigned mask, T v, unsigned d, int w = 32) {
  return shuffle(place, mask, v, lane() - d, (lane() & (w - 1)) >= d);
}
template <class T> INLINED T from_across(uint32_t place, unsigned mask, T v, int m, int w = 32) {
  unsigned from = lane() ^ m;  // a group of w lanes may take from one before it, not from one after it
  return shuffle(place, mask, v, from, from / w <= lane() / w);
}
}  // namespace simulator
#define __shfl_sync(...) simulator::from_lane(__COUNTER__, __VA_ARGS__)
#define __shfl_down_sync(...) simulator::from_below(__COUNTER__, __VA_ARGS__)
#define __shfl_up_sync(...) simulator::from_above(__COUNTER__, __VA_ARGS__)
#define __shfl_xor_sync(...) simulator::from_across(__COUNTER__, __VA_ARGS__)

// ---- float16
#ifdef __FLT16_MAX__
typedef _Float16 half;
typedef half __half;
struct alignas(4) half2 { half x, y; };
typedef half2 __half2;
static inline half __float2half_rn(float x) { return (half)x; }
static inline half __float2half(float x) { return (half)x; }
static inline float __half2float(half x) { return (float)x; }
static inline half __hfma(half a, half b, half c) { return (half)((float)a * (float)b + (float)c); }
static inline unsigned __pack_half2(half x, half y) {
  half2 both = {x, y};
  unsigned result;
  memcpy(&result, &both, 4);
  return result;
}

// ---- warp matrices: the warp's first thread holds the whole tile and does the work when all have come.
namespace nvcuda { namespace wmma {
struct matrix_a; struct matrix_b; struct accumulator; struct row_major {}; struct col_major {};
enum layout_t { mem_row_major, mem_col_major };
template <class Use, int M, int N, int K, class T, class Layout = void> struct fragment {
  static const int rows = std::is_same<Use, matrix_b>::value ? K : M;
  static const int columns = std::is_same<Use, matrix_a>::value ? K : N;
  T tile[rows][columns];
};
template <class F, class T> void fill_fragment(F& f, T x) {
  if (simulator::lane()) return;
  for (auto& row : f.tile) for (auto& element : row) element = x;
}
#define MEET simulator::meet(simulator::MATRIX, place, ~0u, __builtin_return_address(0))
#define NOT_INLINED __attribute__((noinline))  // so that the address they return to is the kernel's
template <class F, class T> void simulator_load(F& f, const T* p, unsigned ld, bool by_rows) {
  if (simulator::lane()) return;
  for (int i = 0; i < F::rows; ++i)
    for (int j = 0; j < F::columns; ++j) f.tile[i][j] = by_rows ? p[i * ld + j] : p[j * ld + i];
}
template <class U, int M, int N, int K, class T, class L>
NOT_INLINED void simulated_load(uint32_t place, fragment<U, M, N, K, T, L>& f, const T* p, unsigned ld) {
  MEET;
  simulator_load(f, p, ld, std::is_same<L, row_major>::value);
}
template <class U, int M, int N, int K, class T>
NOT_INLINED void simulated_load(uint32_t place, fragment<U, M, N, K, T, void>& f, const T* p, unsigned ld,
                                layout_t layout) {
  MEET;
  simulator_load(f, p, ld, layout == mem_row_major);
}
template <class T, class F>
NOT_INLINED void simulated_store(uint32_t place, T* p, const F& f, unsigned ld, layout_t layout) {
  MEET;
  if (simulator::lane()) return;
  for (int i = 0; i < F::rows; ++i)
    for (int j = 0; j < F::columns; ++j)
      (layout == mem_row_major ? p[i * ld + j] : p[j * ld + i]) = f.tile[i][j];
}
template <class D, class A, class B, class C>
NOT_INLINED void simulated_mma(uint32_t place, D& d, const A& a, const B& b, const C& c) {
  MEET;
  if (simulator::lane()) return;
  D result;
  for (int i = 0; i < D::rows; ++i)
    for (int j = 0; j < D::columns; ++j) {
      float sum = (float)c.tile[i][j];
      for (int k = 0; k < A::columns; ++k) sum += (float)a.tile[i][k] * (float)b.tile[k][j];
      result.tile[i][j] = sum;
    }
  d = result;
}
} }  // namespace nvcuda::wmma
#define load_matrix_sync(...) simulated_load(__COUNTER__, __VA_ARGS__)
#define store_matrix_sync(...) simulated_store(__COUNTER__, __VA_ARGS__)
#define mma_sync(...) simulated_mma(__COUNTER__, __VA_ARGS__)
#endif
