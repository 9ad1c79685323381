/* decoder.c - which copy of the decoder's kernels this CPU runs. */
#include "nn_private.h"

const kd__decoder_kernels *kd__decoder_get(void)
{
    const kd_isa isa = kd_cpu_isa();
    return isa >= KD_ISA_AVX512BF16 ? &kd__decoder_avx512bf16
           : isa >= KD_ISA_AVX512   ? &kd__decoder_avx512
           : isa >= KD_ISA_AVX2     ? &kd__decoder_avx2
                                    : &kd__decoder_scalar;
}
