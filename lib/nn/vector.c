/* vector.c - which copy of the vector kernels this CPU runs. */
#include "nn_private.h"

const kd__vec *kd__vec_get(void)
{
    static const kd__vec *best; /* every thread computes the same value */
    const kd__vec *v = __atomic_load_n(&best, __ATOMIC_ACQUIRE);
    if (v) return v;
    const kd_isa isa = kd_cpu_isa();
    v = isa >= KD_ISA_AVX512 ? &kd__vec_avx512 : isa >= KD_ISA_AVX2 ? &kd__vec_avx2 : &kd__vec_scalar;
    __atomic_store_n(&best, v, __ATOMIC_RELEASE);
    return v;
}
