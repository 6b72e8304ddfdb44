// Runs the kernels of kernels.cu on the CPU, one thread after the other, so that tests find wrong indices and wrong formulas without a
// GPU. A block's threads are coroutines: __syncthreads() gives the turn to the next one, and the round ends when all have arrived.
// Running them in the opposite order as well shows a missing barrier as a different result.
//
// Not covered: speed, the limits of a launch, and what the compiler for the GPU does (fused multiply-adds round differently).

#include <cmath>
#include <cstddef>
#include <cstring>
#include <type_traits>
#include <ucontext.h>
#include <utility>
#include <vector>

#define __device__ static
#define __shared__ static
#define KERNEL static void

struct Index {
    unsigned x;
};
static Index threadIdx, blockIdx, gridDim;
static void __syncthreads();

using std::isnan;
#include "kernels.cu"
#include "kernel_names.inc"

namespace {

const size_t STACK = 64 << 10;

struct Coroutine {
    ucontext_t context;
    std::vector<char> stack;
    unsigned thread;
    bool done;
};

ucontext_t scheduler;
Coroutine *current;
void (*job)(void **);
void **job_arguments;

void body()
{
    job(job_arguments);
    current->done = true;
    swapcontext(&current->context, &scheduler);
}

void start(Coroutine &c, unsigned thread)
{
    if (c.stack.empty()) c.stack.resize(STACK);
    c.thread = thread;
    c.done = false;
    getcontext(&c.context);
    c.context.uc_stack.ss_sp = c.stack.data();
    c.context.uc_stack.ss_size = STACK;
    c.context.uc_link = nullptr;
    makecontext(&c.context, body, 0);
}

void resume(Coroutine &c)
{
    current = &c;
    threadIdx.x = c.thread;
    swapcontext(&scheduler, &c.context);
}

template <class... A, size_t... I>
void spread_arguments(void (*kernel)(A...), void **arguments, std::index_sequence<I...>)
{
    kernel(*static_cast<A *>(arguments[I])...);
}

template <auto kernel, class... A>
void unpack_as(void (*)(A...), void **arguments)
{
    spread_arguments(kernel, arguments, std::index_sequence_for<A...>{});
}

template <auto kernel>
void unpack(void **arguments)
{
    unpack_as<kernel>(kernel, arguments);
}

template <class... A>
size_t kinds_of(void (*)(A...), char *kinds)
{
    const char all[] = {(std::is_pointer_v<A> ? 'p' : std::is_same_v<A, Long> ? 'l' : std::is_same_v<A, int> ? 'i' : 'f')...};
    std::memcpy(kinds, all, sizeof...(A));
    return sizeof...(A);
}

struct Entry {
    const char *name;
    void (*run)(void **);
    size_t count;
    char kinds[32];
};

template <auto kernel>
Entry entry(const char *name)
{
    Entry e{name, unpack<kernel>, 0, {}};
    e.count = kinds_of(kernel, e.kinds);
    return e;
}

const std::vector<Entry> &entries()
{
    static const std::vector<Entry> all = {
#define NAME(kernel) entry<kernel>(#kernel),
        KERNEL_NAMES
#undef NAME
    };
    return all;
}

} // namespace

static void __syncthreads()
{
    Coroutine *self = current;
    swapcontext(&self->context, &scheduler);
}

// Runs a kernel with `count` arguments of these kinds (p: pointer, l: Long, i: int, f: float). 0: done. 1: no such kernel. 2: other arguments are declared.
// 3: the threads of a block met different barriers. Not reentrant.
extern "C" int mtv_emulate(const char *name, unsigned blocks, int backwards, void **arguments, const char *kinds, size_t count)
{
    const Entry *found = nullptr;
    for (const Entry &e : entries())
        if (std::strcmp(e.name, name) == 0) found = &e;
    if (!found) return 1;
    if (count != found->count || std::memcmp(kinds, found->kinds, count) != 0) return 2;
    static std::vector<Coroutine> threads(THREADS);
    job = found->run;
    job_arguments = arguments;
    gridDim.x = blocks;
    for (unsigned b = 0; b < blocks; b++) {
        blockIdx.x = backwards ? blocks - 1 - b : b;
        unsigned waiting = 0;
        for (unsigned t = 0; t < THREADS; t++) {
            const unsigned thread = backwards ? THREADS - 1 - t : t;
            start(threads[thread], thread);
            resume(threads[thread]);
            waiting += !threads[thread].done;
        }
        while (waiting) {
            if (waiting != THREADS) return 3;
            waiting = 0;
            for (unsigned t = 0; t < THREADS; t++) {
                const unsigned thread = backwards ? THREADS - 1 - t : t;
                resume(threads[thread]);
                waiting += !threads[thread].done;
            }
        }
    }
    return 0;
}
