/* exact.h - e^x the same everywhere, in a form that compilers turn into vector code.
 *
 * x = k ln 2 + r with |r| <= ln 2 / 2; e^r is a polynomial, 2^k goes into the exponent. Additions and
 * multiplications only, each rounded once (lib/codec is compiled without contraction), so one class at a
 * time, eight at a time and numpy give the same bits. Subnormal results are 0: threads that flush subnormals
 * see no other numbers.
 */
#ifndef KD_EXACT_H
#define KD_EXACT_H

#include <stdint.h>
#include <string.h>

/* Interpolates (e^r - 1 - r) / r^2 at the ten Chebyshev nodes of the interval; off by less than 2^-55. */
#define KD__EXP_POLY                                                                                         \
    0x1.0000000000001p-1, 0x1.5555555555556p-3, 0x1.5555555553d4fp-5, 0x1.11111111109adp-7,                  \
        0x1.6c16c17893833p-10, 0x1.a01a01a7c8d47p-13, 0x1.a019b8ef67c6cp-16, 0x1.71de0d9c145d0p-19,          \
        0x1.2891a8c1d838dp-22, 0x1.af38d53857513p-26
#define KD__LOG2E   0x1.71547652b82fep+0
#define KD__LN2_HI  0x1.62e42fee00000p-1 /* 32 zeros at its end: k * LN2_HI is exact */
#define KD__LN2_LO  0x1.a39ef35793c76p-33
#define KD__EXP_MIN (-708.0)
#define KD__ROUNDER 0x1.8p52 /* x + this has the nearest whole number in its lowest bits */

static inline __attribute__((always_inline)) double kd__exp(double x)
{
    static const double c[] = {KD__EXP_POLY};
    const double shifted = x * KD__LOG2E + KD__ROUNDER, k = shifted - KD__ROUNDER;
    const double r = (x - k * KD__LN2_HI) - k * KD__LN2_LO;
    double q = c[9], scale;
    uint64_t bits;
    for (int i = 8; i >= 0; i--) q = q * r + c[i];
    const double p = 1.0 + (r + r * r * q);
    memcpy(&bits, &shifted, 8);
    bits = (bits + 1023) << 52;
    memcpy(&scale, &bits, 8);
    return x < KD__EXP_MIN ? 0.0 : p * scale;
}

#endif
