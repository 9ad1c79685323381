/* precision.c - products of bf16 operands: which layers, in what form, on which CPUs.
 *
 * In bf16 precision the operands of a product (x, W and dy of a linear layer or a convolution) are rounded
 * to bf16, to nearest even, just before they are multiplied, and products are added up in f32. Everything
 * else stays f32: weights and their gradients, optimizer, loss, biases, norms, all values between layers
 * (Micikevicius et al., "Mixed Precision Training", 2018, section 3, with bf16 in place of fp16, so without
 * scaling the loss: Kalamkar et al., "A Study of BFLOAT16 for Deep Learning Training", 2019).
 *
 * A product of two bf16 numbers is exact in f32, so there are two ways to the same sums but for their order.
 * Rounded operands may lie in memory as bf16, and bf16 instructions multiply them; or as f32, their lower
 * halves zero, and the f32 kernels do. The first way is the faster one where bf16 instructions do more
 * multiply-adds a second than f32's: with AMX tiles, and on AMD's CPUs, where vdpbf16ps does twice as many.
 * On Intel's, it does half as many (Sapphire Rapids without tiles: 170 against 351 GFLOP/s on 2 cores, `make
 * peak`), and kd takes the second. The choice follows from the CPU, not from a clock, so that bits do not
 * change from run to run.
 *
 * Convolutions (rows.c) and token models (panels.c) have products of their own for bf16 instructions; AMX
 * tiles are the library's to use, so with them all products are its. Decoders' attention has bf16 operands in
 * training where bf16 instructions are the faster ones (causal.c), else f32.
 *
 * Depthwise convolutions and those of one input channel do a few operations a number and wait for memory: to
 * round their operands would cost more than it could win. They stay f32.
 */
#include "nn_private.h"

#include <assert.h>
#include <string.h>

enum { LINE = 16 }; /* floats */

/* A CPU whose bf16 instructions for vectors outrun its f32 ones. */
static bool fast_bf16(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    return __builtin_cpu_is("amd");
#else
    return false;
#endif
}

kd__operands kd__operands_by_cpu(kd_precision p)
{
    return p == KD_PRECISION_F32        ? KD__F32
           : kd_cpu_isa() >= KD_ISA_AMX ? KD__TILES
           : fast_bf16()                ? KD__BF16
                                        : KD__ROUNDED;
}

bool kd__is_bf16(kd__operands o) { return o == KD__BF16 || o == KD__TILES; }

kd__operands kd__operands_of(const kd_exec *ex, const kd__node_info *n)
{
    if (n->op == &kd__op_linear) return ex->operands;
    return n->op == &kd__op_conv2d && kd__graph_in(ex->g, n, 0)->dims[2] > 1 ? ex->operands : KD__F32;
}

size_t kd__operand_floats(kd__operands o, size_t n)
{
    const size_t floats = kd__is_bf16(o) ? (n + 1) / 2 : n;
    return (floats + LINE - 1) / LINE * LINE;
}

void kd__make_operand(void *to, const float *from, size_t n, kd__operands o)
{
    assert(o != KD__F32);
    if (kd__is_bf16(o))
        kd__vec_get()->to_bf16(to, from, n);
    else
        kd__vec_get()->round_bf16(to, from, n);
}

size_t kd__operand_bytes(kd__operands o, size_t n)
{
    return n * (kd__is_bf16(o) ? sizeof(uint16_t) : sizeof(float));
}

double kd__naive_operand(float v, kd__operands o)
{
    uint16_t h;
    if (o != KD__F32) {
        kd_from_f32(&h, KD_BF16, &v, 1);
        kd_to_f32(&v, &h, KD_BF16, 1);
    }
    return (double)v;
}

bool kd_precision_parse(const char *name, kd_precision *out)
{
    const bool half = !strcmp(name, "bf16");
    if (half || !strcmp(name, "f32")) *out = half ? KD_PRECISION_BF16 : KD_PRECISION_F32;
    return half || !strcmp(name, "f32");
}

kd_status kd_nn_check_precision(kd_precision p, kd_err *err)
{
    const kd_isa isa = kd_cpu_isa();
    if (p == KD_PRECISION_F32 || isa >= KD_ISA_AVX512BF16) return KD_OK;
    return kd_fail(
        err, KD_EUNSUPPORTED,
        "bf16 products need the CPU feature avx512_bf16; this CPU, or KD_ISA, ends at %s; train in f32",
        kd_isa_name(isa));
}

const char *kd_nn_products(kd_precision p)
{
    static const char *const name[] = {"f32", "f32 of operands rounded to bf16", "bf16", "bf16 in tiles"};
    return name[kd__operands_by_cpu(p)];
}
