/* A stand-in for one CUDA library that opens the real one when its first function is called.
 *
 * candle links the CUDA libraries by name, so that a program built with CUDA would not even start where they are missing. Linked with
 * this archive in their place it starts everywhere; where the real library is missing every function returns FAILURE, the library's own
 * code for "not initialised", and the device can't be opened.
 *
 * Compiled once per library by scripts/cuda-toolkit.sh with
 *   -DSONAME="..."  the file that dlopen looks for (LD_LIBRARY_PATH, then ldconfig's cache)
 *   -DFAILURE=n     what a call returns without it
 *   -DSYMBOLS="..." a file with one line SYMBOL(index, name) per function
 */
#if !defined(__x86_64__) || !defined(__linux__)
#error "these trampolines are for Linux on x86-64"
#endif
#include <dlfcn.h>

static const char *const names[] = {
#define SYMBOL(index, name) #name,
#include SYMBOLS
#undef SYMBOL
};

/* Where each function was found: empty until its first call. */
__attribute__((used)) static void *found[sizeof names / sizeof *names];

static long missing(void) { return FAILURE; }

/* Two threads may do this at once: both write the same addresses. */
__attribute__((used)) static void *find(unsigned index)
{
    static void *library;
    if (!library)
        library = dlopen(SONAME, RTLD_NOW | RTLD_GLOBAL);
    void *function = library ? dlsym(library, names[index]) : 0;
    return found[index] = function ? function : (void *)missing;
}

/* Jumps to the function; on the first call all argument registers are kept while `find` looks for it. */
__asm__(".text\n"
        "look_up:\n"
        "  push %rdi\n  push %rsi\n  push %rdx\n  push %rcx\n  push %r8\n  push %r9\n  push %rax\n"
        "  sub $128, %rsp\n"
        "  movups %xmm0, 0(%rsp)\n  movups %xmm1, 16(%rsp)\n  movups %xmm2, 32(%rsp)\n  movups %xmm3, 48(%rsp)\n"
        "  movups %xmm4, 64(%rsp)\n  movups %xmm5, 80(%rsp)\n  movups %xmm6, 96(%rsp)\n  movups %xmm7, 112(%rsp)\n"
        "  mov %r11d, %edi\n"
        "  call find\n"
        "  mov %rax, %r11\n"
        "  movups 0(%rsp), %xmm0\n  movups 16(%rsp), %xmm1\n  movups 32(%rsp), %xmm2\n  movups 48(%rsp), %xmm3\n"
        "  movups 64(%rsp), %xmm4\n  movups 80(%rsp), %xmm5\n  movups 96(%rsp), %xmm6\n  movups 112(%rsp), %xmm7\n"
        "  add $128, %rsp\n"
        "  pop %rax\n  pop %r9\n  pop %r8\n  pop %rcx\n  pop %rdx\n  pop %rsi\n  pop %rdi\n"
        "  jmp *%r11\n");

#define SYMBOL(index, name)                             \
    __asm__(".globl " #name "\n"                        \
            ".type " #name ", @function\n" #name ":\n"  \
            "  endbr64\n"                               \
            "  mov found+8*" #index "(%rip), %r11\n"    \
            "  test %r11, %r11\n"                       \
            "  jz 1f\n"                                 \
            "  jmp *%r11\n"                             \
            "1: mov $" #index ", %r11d\n"               \
            "  jmp look_up\n"                           \
            ".size " #name ", . - " #name "\n");
#include SYMBOLS
