/* values.c - members of the results object, and numbers as people read them. */
#include "report_cmd.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

double num(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

const char *str(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

double mean_of(const json_t *list, double *sd)
{
    const size_t n = json_array_size(list);
    double sum = 0, ss = 0;
    for (size_t i = 0; i < n; i++) sum += json_number_value(json_array_get(list, i));
    const double mean = n ? sum / (double)n : NAN;
    for (size_t i = 0; i < n; i++) ss += pow(json_number_value(json_array_get(list, i)) - mean, 2);
    if (sd) *sd = n > 1 ? sqrt(ss / (double)(n - 1)) : NAN;
    return mean;
}

/* 24058 as "24,058". */
static void with_commas(char *buf, size_t len, double v)
{
    char digits[40];
    const int n = snprintf(digits, sizeof digits, "%.0f", v);
    size_t at = 0;
    for (int i = 0; i < n && at + 2 < len; i++) {
        buf[at++] = digits[i];
        if (digits[i] != '-' && (n - i) % 3 == 1 && i + 1 < n) buf[at++] = ',';
    }
    buf[at] = '\0';
}

const char *number(char *buf, double v, number_form as)
{
    const size_t len = 40;
    char *b = buf;
    if (!isfinite(v) || fabs(v) > 1e18) {
        snprintf(b, len, "–");
        return buf;
    }
    switch (as) {
    case AS_SHARE: snprintf(b, len, "%.2f\u00a0%%", 100 * v); break;
    case AS_POINTS: snprintf(b, len, "%s%.2f", v < 0 ? "−" : "+", fabs(100 * v)); break;
    case AS_REAL: snprintf(b, len, "%.3f", v); break;
    case AS_COUNT: with_commas(b, len, v); break;
    case AS_ROUGH:
        snprintf(b, len,
                 v < 1e4   ? "%.0f"
                 : v < 1e6 ? "%.0f k"
                 : v < 1e9 ? "%.1f M"
                           : "%.1f G",
                 v / (v < 1e4   ? 1
                      : v < 1e6 ? 1e3
                      : v < 1e9 ? 1e6
                                : 1e9));
        break;
    case AS_BYTES: kd_fmt_bytes(b, v); break;
    case AS_US:
        snprintf(b, len, v < 10 ? "%.1f µs" : v < 1e4 ? "%.0f µs" : "%.3g ms", v < 1e4 ? v : v / 1e3);
        break;
    case AS_SECONDS: snprintf(b, len, v < 10 ? "%.2f s" : v < 1000 ? "%.1f s" : "%.0f s", v); break;
    case AS_RATE: with_commas(b, len - 3, v), strncat(b, "/s", 3); break;
    }
    return buf;
}

size_t models(const report *r, const json_t **out, size_t max)
{
    const json_t *teacher = json_object_get(r->results, "teacher"), *s;
    size_t n = 0, i;
    if (json_is_object(teacher) && n < max) out[n++] = teacher;
    json_array_foreach(json_object_get(r->results, "students"), i, s)
    {
        if (n < max && !json_is_true(json_object_get(s, "is_teacher"))) out[n++] = s;
    }
    return n;
}

const char *model_name(const report *r, const json_t *model)
{
    const char *name = str(model, "name");
    return *name ? name : model == json_object_get(r->results, "teacher") ? "teacher" : "?";
}

const char *class_name(const report *r, int64_t c, char *buf)
{
    const char *name =
        c < 0 ? NULL
              : json_string_value(json_array_get(json_object_get(r->results, "class_names"), (size_t)c));
    if (!name) snprintf(buf, 24, "%lld", (long long)c);
    return name ? name : buf;
}

char *locate(const report *r, const char *path)
{
    char *there = *path ? kd_strdup(path) : NULL;
    if (there && kd_exists(there)) return there;
    free(there);
    if (!*path || *path == '/') return NULL;
    there = kd_path_join(r->folder, path);
    if (there && kd_exists(there)) return there;
    free(there);
    return NULL;
}
