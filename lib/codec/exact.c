/* exact.c - the exponential and the logarithm of the codecs: no C library's, whose last bits differ. */
#include "codec_private.h"
#include "exact.h"

double kd_codec_exp(double x) { return kd__exp(x); }

/* x = 2^k m with sqrt(1/2) <= m < sqrt(2), f = m - 1, s = f / (2 + f): ln(1 + f) = 2 atanh(s) is s times an
 * even polynomial. Coefficients and the order of the last sum as in fdlibm's e_log.c (Sun Microsystems,
 * 1993). */
double kd_codec_log(double x)
{
    static const double c[] = {0x1.5555555555593p-1, 0x1.999999997fa04p-2, 0x1.2492494229359p-2,
                               0x1.c71c51d8e78afp-3, 0x1.7466496cb03dep-3, 0x1.39a09d078c69fp-3,
                               0x1.2f112df3e5244p-3};
    uint64_t bits;
    double m, q = c[6];
    memcpy(&bits, &x, 8);
    // The mantissa's bits from those of sqrt(1/2) on belong to the exponent above.
    const uint64_t up = ((bits & 0xfffffffffffffu) + 0x95f6400000000u) & 0x10000000000000u;
    const double k = (double)((int64_t)((bits + up) >> 52) - 1023);
    bits = (bits & 0xfffffffffffffu) | (up ^ 0x3ff0000000000000u);
    memcpy(&m, &bits, 8);
    const double f = m - 1.0, s = f / (2.0 + f), z = s * s, half = 0.5 * f * f;
    for (int i = 5; i >= 0; i--) q = q * z + c[i];
    return k * KD__LN2_HI - ((half - (s * (half + z * q) + k * KD__LN2_LO)) - f);
}
