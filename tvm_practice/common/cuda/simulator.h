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
  WRITE_AFTER_WRITE, DIVERGENCE, WARP_DIVERGENCE, LOCAL_OUTSIDE
};

struct Finding {
  uint32_t kind;
  uint32_t write;                   // whether the access that found it is a write
  uint32_t site, other_site;        // of the access, and of the one it collides with
  uint32_t array;
  uint32_t size;
  int64_t offset;                   // bytes from the start of the array
  uint32_t block, thread;
  uint32_t other_block, other_thread;
  uint32_t waiting, returned;       // of a divergence: how many threads
};

// ------------------------------------------------------------------------------------------ state

struct Index { unsigned x, y, z; };

static struct { Index thread, block, block_extent, grid_extent; } indices;  // threadIdx and so on

struct Touch {  // who touched an element, and when: thread is 1 + its number in the whole grid
  uint32_t thread, phase, site;
  uint16_t warp_phase;
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

enum State { READY, AT_BLOCK_BARRIER, AT_WARP_BARRIER, FINISHED };

struct Fiber {
  jmp_buf here;
  ucontext_t start;
  bool started;
  State state;
  uint32_t barrier;  // the site of the barrier it waits at
  Index index;
};

static const uint64_t GAP = 4 << 20;     // between arrays, so that an index that runs over is found out
static const uint64_t STACK = 128 << 10;
static const unsigned MOST_THREADS = 1024, MOST_REGIONS = 64, WARP = 32;

static Region regions[MOST_REGIONS];
static unsigned region_count, first_shared;
static Fiber fibers[MOST_THREADS];
static char* stacks;
static jmp_buf scheduler;
static unsigned thread_count, current, block_number;
static uint32_t phase;
static uint16_t warp_phase[MOST_THREADS / WARP];
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
  unsigned warp = thread % thread_count / WARP;
  return warp == current / WARP && touch.warp_phase < warp_phase[warp];
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
  Touch now = {block_number * thread_count + current + 1, phase, site_of(pc), warp_phase[current / WARP]};
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
  if (address - (uintptr_t)stacks < MOST_THREADS * STACK) return;  // a thread's own
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

PLAIN static void wait(State state, const void* pc) {
  Fiber& fiber = fibers[current];
  fiber.state = state;
  fiber.barrier = site_of(pc);
  if (!_setjmp(fiber.here)) _longjmp(scheduler, 1);
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

PLAIN static uint64_t draw() {  // xorshift64
  static uint64_t state = 88172645463325252ull;
  state ^= state << 13; state ^= state >> 7; state ^= state << 17;
  return state;
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

PLAIN static bool diverged(Kind kind, unsigned waiting, unsigned returned, unsigned witness) {
  finding->kind = kind;
  finding->waiting = waiting;
  finding->returned = returned;
  finding->block = block_number;
  finding->thread = witness;
  finding->site = fibers[witness].barrier;
  return false;
}

// Release every warp of which no thread can go on and some wait for the warp. False: divergence.
PLAIN static bool release_warps(bool& any) {
  for (unsigned first = 0; first < thread_count; first += WARP) {
    unsigned end = first + WARP < thread_count ? first + WARP : thread_count, at_warp = 0, at_block = 0;
    for (unsigned t = first; t < end; ++t) {
      at_warp += fibers[t].state == AT_WARP_BARRIER;
      at_block += fibers[t].state == AT_BLOCK_BARRIER;
    }
    if (at_warp && at_block) return diverged(WARP_DIVERGENCE, at_warp, at_block, first);
    if (!at_warp) continue;
    ++warp_phase[first / WARP];
    for (unsigned t = first; t < end; ++t)
      if (fibers[t].state == AT_WARP_BARRIER) fibers[t].state = READY;
    any = true;
  }
  return true;
}

PLAIN static bool run_block(uint32_t order) {
  static unsigned sequence[MOST_THREADS];
  for (unsigned t = 0; t < thread_count; ++t) {
    Fiber& fiber = fibers[t];
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = stacks + t * STACK;
    fiber.start.uc_stack.ss_size = STACK;
    fiber.start.uc_link = nullptr;
    makecontext(&fiber.start, enter, 0);
    fiber.started = false;
    fiber.state = READY;
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
  uint64_t total = MOST_THREADS * STACK + GAP;
  for (uint32_t n = 0; n < count; ++n) total += (arrays[n].bytes + 255) / 256 * 256 + GAP;
  char* arena = (char*)reserve(total);
  if (!arena) return false;
  stacks = arena;
  char* next = arena + MOST_THREADS * STACK + GAP;
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
  memset(warp_phase, 0, sizeof warp_phase);
  gridDim = {launch.grid[0], launch.grid[1], launch.grid[2]};
  blockDim = {launch.block[0], launch.block[1], launch.block[2]};
  thread_count = blockDim.x * blockDim.y * blockDim.z;
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

extern "C" PLAIN void __syncthreads() {
  simulator::wait(simulator::AT_BLOCK_BARRIER, __builtin_return_address(0));
}
extern "C" PLAIN void __syncwarp(unsigned = ~0u) {
  simulator::wait(simulator::AT_WARP_BARRIER, __builtin_return_address(0));
}

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

// ---- warp shuffles, through an exchange buffer
namespace simulator {
static uint64_t exchanged[MOST_THREADS];
template <class T> PLAIN static T exchange(T value, unsigned lane, bool taken) {
  memcpy(&exchanged[current], &value, sizeof value);
  __syncwarp();
  unsigned from = current / WARP * WARP + lane;
  T result = value;
  if (taken && from < thread_count) memcpy(&result, &exchanged[from], sizeof result);
  __syncwarp();
  return result;
}
PLAIN static unsigned lane() { return current % WARP; }
}  // namespace simulator
template <class T> static T __shfl_sync(unsigned, T v, int s, int w = 32) {
  return simulator::exchange(v, (simulator::lane() & ~(w - 1)) + (s & (w - 1)), true);
}
template <class T> static T __shfl_down_sync(unsigned, T v, unsigned d, int w = 32) {
  unsigned lane = simulator::lane();
  return simulator::exchange(v, lane + d, (lane & (w - 1)) + d < (unsigned)w);
}
template <class T> static T __shfl_up_sync(unsigned, T v, unsigned d, int w = 32) {
  unsigned lane = simulator::lane();
  return simulator::exchange(v, lane - d, (lane & (w - 1)) >= d);
}
template <class T> static T __shfl_xor_sync(unsigned, T v, int m, int w = 32) {
  return simulator::exchange(v, simulator::lane() ^ m, true);
}
static inline unsigned __activemask() { return ~0u; }

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

// ---- warp matrices: the warp's first thread holds the whole tile and does the work, after a barrier
// of the warp; the others only come to the barrier.
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
template <class F, class T> void simulator_load(F& f, const T* p, unsigned ld, bool by_rows) {
  __syncwarp();
  if (simulator::lane() == 0)
    for (int i = 0; i < F::rows; ++i)
      for (int j = 0; j < F::columns; ++j) f.tile[i][j] = by_rows ? p[i * ld + j] : p[j * ld + i];
  __syncwarp();
}
template <class U, int M, int N, int K, class T, class L>
void load_matrix_sync(fragment<U, M, N, K, T, L>& f, const T* p, unsigned ld) {
  simulator_load(f, p, ld, std::is_same<L, row_major>::value);
}
template <class U, int M, int N, int K, class T>
void load_matrix_sync(fragment<U, M, N, K, T, void>& f, const T* p, unsigned ld, layout_t layout) {
  simulator_load(f, p, ld, layout == mem_row_major);
}
template <class T, class F> void store_matrix_sync(T* p, const F& f, unsigned ld, layout_t layout) {
  __syncwarp();
  if (simulator::lane() == 0)
    for (int i = 0; i < F::rows; ++i)
      for (int j = 0; j < F::columns; ++j)
        (layout == mem_row_major ? p[i * ld + j] : p[j * ld + i]) = f.tile[i][j];
  __syncwarp();
}
template <class D, class A, class B, class C> void mma_sync(D& d, const A& a, const B& b, const C& c) {
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
#endif
