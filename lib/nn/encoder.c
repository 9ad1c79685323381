/* encoder.c - which copy of the encoder's kernels this CPU runs. */
#include "nn_private.h"

const kd__encoder_kernels *kd__encoder_get(void)
{
    const kd_isa isa = kd_cpu_isa();
    return isa >= KD_ISA_AVX512 ? &kd__encoder_avx512
           : isa >= KD_ISA_AVX2 ? &kd__encoder_avx2
                                : &kd__encoder_scalar;
}
