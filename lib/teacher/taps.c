/* taps.c - values of inner nodes: which ones, in which form.
 *
 * A student that learns features needs a teacher's inner values. Those of a map (height, width, channels) are
 * usually pooled over the pixels: a hundredth of the room, and what feature losses on maps of another size
 * compare anyway. The inference is planned anew with the wanted nodes kept; nothing else about it changes, so
 * the logits keep their bits.
 */
#include "teacher_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const forms[] = {[KD_TAP_USUAL] = "usual",
                                    [KD_TAP_MEAN] = "mean",
                                    [KD_TAP_MAX] = "max",
                                    [KD_TAP_FLAT] = "flat",
                                    [KD_TAP_ATTENTION] = "attention"};

const char *kd_tap_form_name(kd_tap_form f) { return (size_t)f < KD_COUNT(forms) ? forms[f] : "unknown"; }

kd_status kd_tap_parse(kd_tap *tap, const char *text, kd_err *err)
{
    const size_t len = strcspn(text, ":");
    *tap = (kd_tap){.form = KD_TAP_USUAL};
    if (!len || len >= sizeof tap->node)
        return kd_fail(err, KD_EUSAGE,
                       "tap '%.80s': expected NODE, NODE:mean, NODE:max, NODE:flat, NODE:attention or "
                       "NODE:attention=HxW",
                       text);
    memcpy(tap->node, text, len);
    if (!text[len]) return KD_OK;
    int end = 0;
    if (sscanf(text + len, ":attention=%dx%d%n", &tap->height, &tap->width, &end) == 2 &&
        !text[len + (size_t)end] && tap->height > 0 && tap->width > 0) {
        tap->form = KD_TAP_ATTENTION;
        return KD_OK;
    }
    for (int f = KD_TAP_MEAN; f <= KD_TAP_ATTENTION; f++)
        if (!strcmp(text + len + 1, forms[f])) {
            tap->form = (kd_tap_form)f;
            return KD_OK;
        }
    return kd_fail(err, KD_EUSAGE,
                   "tap '%.80s': the form '%.20s' is none of mean, max, flat, attention and attention=HxW",
                   text, text + len + 1);
}

/* ---- taking --------------------------------------------------------------------------------- */

static kd_status no_node(const kd_teacher *t, const char *name, kd_err *err)
{
    const kd_graph *g = t->model->graph;
    const int n = kd_graph_nodes(g);
    const char **names = malloc((size_t)n * sizeof *names), *near = NULL;
    for (int i = 0; names && i < n; i++) names[i] = kd_graph_node_name(g, i);
    if (names) near = kd_nearest(name, names, (size_t)n);
    free(names);
    if (near) return kd_fail(err, KD_EUSAGE, "%s: no node '%s' (did you mean '%s'?)", t->folder, name, near);
    return kd_fail(err, KD_EUSAGE, "%s: no node '%s'; kd-dump --list-taps shows them", t->folder, name);
}

static kd_status resolve_attention(const kd_teacher *t, const int64_t *dims, kd__tap *k, kd_err *err)
{
    const int64_t h = k->tap.height ? k->tap.height : dims[0], w = k->tap.width ? k->tap.width : dims[1];
    if (h > dims[0] || w > dims[1])
        return kd_fail(err, KD_EUSAGE, "%s: node %s is a map of %lldx%lld; it cannot be pooled to %lldx%lld",
                       t->folder, k->tap.node, (long long)dims[0], (long long)dims[1], (long long)h,
                       (long long)w);
    k->tap.height = (int)(k->dims[0] = h);
    k->tap.width = (int)(k->dims[1] = w);
    k->ndims = 2;
    k->size = (size_t)(h * w);
    k->height = (size_t)dims[0];
    k->width = (size_t)dims[1];
    k->channels = (size_t)dims[2];
    return KD_OK;
}

static kd_status resolve(const kd_teacher *t, const kd_tap *want, kd__tap *k, kd_err *err)
{
    const kd_graph *g = t->model->graph;
    int64_t dims[KD_MAX_DIMS];
    *k = (kd__tap){.tap = *want, .node = kd_graph_find(g, want->node)};
    if (k->node < 0) return no_node(t, want->node, err);
    const kd_node shown = kd_graph_node_shown(g, k->node);
    if (shown != k->node)
        return kd_fail(err, KD_EUSAGE,
                       "%s: the value of %s is never there, its ReLU is computed with it; tap %s", t->folder,
                       want->node, kd_graph_node_name(g, shown));
    const int n = kd_graph_node_shape(g, k->node, dims);
    const bool map = n == 3;
    if (want->form == KD_TAP_USUAL) k->tap.form = map ? KD_TAP_MEAN : KD_TAP_FLAT;
    if (k->tap.form != KD_TAP_FLAT && !map)
        return kd_fail(err, KD_EUSAGE, "%s: node %s is no map of height, width and channels: it has no %s",
                       t->folder, want->node, forms[k->tap.form]);
    if (k->tap.form == KD_TAP_FLAT) {
        k->ndims = n;
        memcpy(k->dims, dims, sizeof dims);
        k->size = kd_graph_node_size(g, k->node);
        return KD_OK;
    }
    if (want->form == KD_TAP_ATTENTION) return resolve_attention(t, dims, k, err);
    k->ndims = 1;
    k->dims[0] = dims[2];
    k->size = k->channels = (size_t)dims[2];
    k->pixels = (size_t)(dims[0] * dims[1]);
    return KD_OK;
}

kd_status kd_teacher_take(kd_teacher *t, const kd_tap *taps, size_t n, kd_err *err)
{
    kd__tap list[KD_TEACHER_TAPS];
    kd_node keep[KD_TEACHER_TAPS] = {0};
    kd_status st;
    if (n > KD_TEACHER_TAPS)
        return kd_fail(err, KD_EUSAGE, "%s: %zu taps, at most %d", t->folder, n, KD_TEACHER_TAPS);
    if (!n && !t->ntaps) return KD_OK;
    for (size_t i = 0; i < n; i++) {
        if ((st = resolve(t, &taps[i], &list[i], err))) return st;
        keep[i] = list[i].node;
        for (size_t k = 0; k < i; k++)
            if (keep[k] == keep[i])
                return kd_fail(err, KD_EUSAGE, "%s: node %s is tapped twice", t->folder, taps[i].node);
    }
    if ((st = kd__teacher_plan(t, keep, n, err))) return st;
    t->ntaps = n;
    if (n) memcpy(t->tap, list, n * sizeof *list);
    return KD_OK;
}

size_t kd_teacher_taps(const kd_teacher *t) { return t->ntaps; }

int kd_teacher_tap_shape(const kd_teacher *t, size_t i, kd_tap *tap, int64_t dims[KD_MAX_DIMS])
{
    *tap = t->tap[i].tap;
    memcpy(dims, t->tap[i].dims, sizeof t->tap[i].dims);
    return t->tap[i].ndims;
}

/* ---- reading -------------------------------------------------------------------------------- */

kd_status kd__teacher_tap(kd_teacher *t, size_t i, int64_t rows, kd__place at, float *out, kd_err *err)
{
    const kd__tap *k = &t->tap[i];
    const float *x = kd_exec_value(t->exec, k->node); // (batch, node's shape)
    const size_t n = (size_t)rows * k->size;
    if (k->tap.form == KD_TAP_FLAT)
        memcpy(out, x, n * sizeof *out);
    else if (k->tap.form == KD_TAP_ATTENTION)
        kd_nn_attention(out, x, (size_t)rows, k->height, k->width, k->channels, (size_t)k->tap.height,
                        (size_t)k->tap.width, t->threads);
    else
        kd_nn_over_pixels(out, x, (size_t)rows, k->pixels, k->channels, k->tap.form == KD_TAP_MAX,
                          t->threads);
    for (size_t j = 0; j < n; j++)
        if (!isfinite(out[j]))
            return kd_fail(err, KD_ENUMERIC, "%s: row %llu, node %s: value %zu is %g", t->folder,
                           (unsigned long long)(at.base + (at.first + j / k->size) / at.per), k->tap.node,
                           j % k->size, out[j]);
    return KD_OK;
}

kd_status kd_teacher_tap(kd_teacher *t, size_t i, int64_t rows, float *out, kd_err *err)
{
    return kd__teacher_tap(t, i, rows, (kd__place){.per = 1}, out, err);
}
