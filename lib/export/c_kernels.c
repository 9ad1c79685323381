/* c_kernels.c - the functions that an exported C file calls, as they stand in it.
 *
 * Images are (height, width, channels). Weights lie so that the innermost loop runs over outputs, which is
 * over neighbours in memory: compilers vectorise it without being told to reorder sums, and on a small core
 * it is one multiply-add a step. `weight` is float or signed char; the scale of an output channel is applied
 * once, to the finished sum.
 */
#include "export_private.h"

const char kd__c_shape_text[] = "typedef struct shape {\n"
                                "    int h, w, c, out_h, out_w, out, k, stride, pad, relu;\n"
                                "} shape;\n";

const char kd__c_finish_text[] =
    "\n/* sums (n) become sum * scale + bias, or 0 with relu if that is less; scale and bias may be null. "
    "*/\n"
    "static void finish(float *sums, const float *scale, const float *bias, int n, int relu)\n"
    "{\n"
    "    for (int i = 0; i < n; i++) {\n"
    "        float v = sums[i];\n"
    "        if (scale) v *= scale[i];\n"
    "        if (bias) v += bias[i];\n"
    "        sums[i] = relu && v < 0 ? 0 : v;\n"
    "    }\n"
    "}\n";

const char kd__c_scale_text[] =
    "\nstatic void centre(const number *x, float *y, float mean, float scale, int n)\n"
    "{\n"
    "    for (int i = 0; i < n; i++) y[i] = ((float)x[i] - mean) * scale;\n"
    "}\n";

const char kd__c_linear_text[] =
    "\n/* w (c, out) */\n"
    "static void linear(const float *x, float *restrict y, const weight *w, const float *scale,\n"
    "                   const float *bias, const shape *s)\n"
    "{\n"
    "    for (int o = 0; o < s->out; o++) y[o] = 0;\n"
    "    for (int i = 0; i < s->c; i++)\n"
    "        for (int o = 0; o < s->out; o++) y[o] += x[i] * (float)w[i * s->out + o];\n"
    "    finish(y, scale, bias, s->out, s->relu);\n"
    "}\n";

const char kd__c_conv_text[] =
    "\n/* w (k, k, c, out); zeros outside the image */\n"
    "static void conv2d(const float *x, float *restrict y, const weight *w, const float *scale,\n"
    "                   const float *bias, const shape *s)\n"
    "{\n"
    "    for (int p = 0; p < s->out_h * s->out_w; p++, y += s->out) {\n"
    "        const int top = p / s->out_w * s->stride - s->pad, left = p % s->out_w * s->stride - s->pad;\n"
    "        for (int o = 0; o < s->out; o++) y[o] = 0;\n"
    "        for (int t = 0; t < s->k * s->k; t++) {\n"
    "            const int row = top + t / s->k, col = left + t % s->k;\n"
    "            if (row < 0 || row >= s->h || col < 0 || col >= s->w) continue;\n"
    "            const float *from = x + (row * s->w + col) * s->c;\n"
    "            const weight *tap = w + t * s->c * s->out;\n"
    "            for (int c = 0; c < s->c; c++)\n"
    "                for (int o = 0; o < s->out; o++) y[o] += from[c] * (float)tap[c * s->out + o];\n"
    "        }\n"
    "        finish(y, scale, bias, s->out, s->relu);\n"
    "    }\n"
    "}\n";

const char kd__c_dwconv_text[] =
    "\n/* w (k, k, c): each channel by itself */\n"
    "static void dwconv2d(const float *x, float *restrict y, const weight *w, const float *scale,\n"
    "                     const float *bias, const shape *s)\n"
    "{\n"
    "    for (int p = 0; p < s->out_h * s->out_w; p++, y += s->c) {\n"
    "        const int top = p / s->out_w * s->stride - s->pad, left = p % s->out_w * s->stride - s->pad;\n"
    "        for (int c = 0; c < s->c; c++) y[c] = 0;\n"
    "        for (int t = 0; t < s->k * s->k; t++) {\n"
    "            const int row = top + t / s->k, col = left + t % s->k;\n"
    "            if (row < 0 || row >= s->h || col < 0 || col >= s->w) continue;\n"
    "            const float *from = x + (row * s->w + col) * s->c;\n"
    "            const weight *tap = w + t * s->c;\n"
    "            for (int c = 0; c < s->c; c++) y[c] += from[c] * (float)tap[c];\n"
    "        }\n"
    "        finish(y, scale, bias, s->c, s->relu);\n"
    "    }\n"
    "}\n";

const char kd__c_relu_text[] = "\nstatic void relu(const float *x, float *y, int n)\n"
                               "{\n"
                               "    for (int i = 0; i < n; i++) y[i] = x[i] < 0 ? 0 : x[i];\n"
                               "}\n";

const char kd__c_maxpool_text[] =
    "\nstatic void maxpool(const float *x, float *restrict y, const shape *s)\n"
    "{\n"
    "    for (int p = 0; p < s->out_h * s->out_w; p++, y += s->c) {\n"
    "        const float *first = x + (p / s->out_w * s->w + p % s->out_w) * s->stride * s->c;\n"
    "        for (int c = 0; c < s->c; c++) y[c] = first[c];\n"
    "        for (int t = 1; t < s->k * s->k; t++) {\n"
    "            const float *from = first + (t / s->k * s->w + t % s->k) * s->c;\n"
    "            for (int c = 0; c < s->c; c++)\n"
    "                if (from[c] > y[c]) y[c] = from[c];\n"
    "        }\n"
    "    }\n"
    "}\n";

const char kd__c_gap_text[] =
    "\nstatic void global_avgpool(const float *x, float *restrict y, int pixels, int c)\n"
    "{\n"
    "    for (int i = 0; i < c; i++) y[i] = 0;\n"
    "    for (int p = 0; p < pixels; p++)\n"
    "        for (int i = 0; i < c; i++) y[i] += x[p * c + i];\n"
    "    for (int i = 0; i < c; i++) y[i] /= (float)pixels;\n"
    "}\n";

const char kd__c_flatten_text[] =
    "\n/* (pixels, c) to (c, pixels), the order that the weights behind it have */\n"
    "static void flatten(const float *x, float *restrict y, int pixels, int c)\n"
    "{\n"
    "    for (int i = 0; i < c; i++)\n"
    "        for (int p = 0; p < pixels; p++) y[i * pixels + p] = x[p * c + i];\n"
    "}\n";

const char kd__c_add_text[] = "\nstatic void add(const float *a, const float *b, float *y, int n, int relu)\n"
                              "{\n"
                              "    for (int i = 0; i < n; i++) {\n"
                              "        const float v = a[i] + b[i];\n"
                              "        y[i] = relu && v < 0 ? 0 : v;\n"
                              "    }\n"
                              "}\n";
