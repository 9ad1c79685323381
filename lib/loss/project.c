/* project.c - what is learned between the student's tap and the teacher's feature.
 *
 * A projection is part of the student's training graph: its parameters lie in the student's slab behind the
 * model's own (whose initial values therefore stay the same), its gradient, optimizer state and checkpoints
 * are the student's, and the export leaves out whatever begins with KD_LOSS_PREFIX.
 *
 * linear: one linear layer with bias onto the teacher's size; for crd onto `dim` numbers, on both sides.
 * regressor: convolution + batch norm + ReLU onto the teacher's map (mdistiller's ConvReg), 3x3 with stride 2
 * where the student's map is twice as large, else a window of (student - teacher + 1) without padding;
 * features without space get a linear layer.
 *
 * The reference grows maps that are too small by a transposed convolution; here that is refused, an earlier
 * tap has the pixels.
 */
#include "loss_private.h"

enum { NAME = 48 };

static const char *name(char buf[NAME], int i, const char *what)
{
    snprintf(buf, NAME, KD_LOSS_PREFIX "%d.%s", i, what);
    return buf;
}

static kd_status to_map(kd_graph *g, int i, kd_node tap, const int64_t *s, const kd_loss_dims *t,
                        kd_node *out, kd_err *err)
{
    char buf[NAME];
    int64_t dy = s[0] - t->dims[0], dx = s[1] - t->dims[1];
    kd_node x;
    if (s[0] == 2 * t->dims[0] && s[1] == 2 * t->dims[1])
        x = kd_nn_conv2d(g, name(buf, i, "conv"), tap, t->dims[2], 3, 2, 1, true);
    else if (dy >= 0 && dy == dx)
        x = kd_nn_conv2d(g, name(buf, i, "conv"), tap, t->dims[2], (int)dy + 1, 1, 0, true);
    else
        return kd_fail(err, KD_EUSAGE,
                       "no regressor leads from a map of %lldx%lld to one of %lldx%lld; take a tap whose map "
                       "is as large "
                       "or twice as large",
                       (long long)s[0], (long long)s[1], (long long)t->dims[0], (long long)t->dims[1]);
    x = kd_nn_batchnorm(g, name(buf, i, "norm"), x, 0.1f, 1e-5f);
    *out = kd_nn_relu(g, name(buf, i, "relu"), x);
    return KD_OK;
}

/* One linear layer over the last axis, all other axes alike. */
static kd_status to_width(kd_graph *g, int i, kd_node tap, int ndims, const int64_t *s, const kd_loss_dims *t,
                          kd_node *out, kd_err *err)
{
    char buf[NAME];
    bool alike = ndims == t->ndims;
    for (int a = 0; alike && a < ndims - 1; a++) alike = s[a] == t->dims[a];
    if (!alike)
        return kd_fail(err, KD_EUSAGE,
                       "a linear projection joins the last axis only, and the tap and the teacher's feature "
                       "differ in others; take another tap, or pooled features");
    *out = kd_nn_linear(g, name(buf, i, "linear"), tap, t->dims[t->ndims - 1], true);
    return KD_OK;
}

/* crd: both sides flattened and led to one size. */
static void embed(const kd__term *t, kd_graph *g, int i, kd_node tap, const kd_loss_dims *teacher,
                  kd_loss_nodes *out)
{
    char buf[NAME];
    kd_node x = kd_nn_flatten(g, name(buf, i, "flat"), tap);
    out->student = kd_nn_linear(g, name(buf, i, "student"), x, t->k.dim, true);
    out->teacher = kd_nn_input(g, name(buf, i, "teacher"), teacher->ndims, teacher->dims);
    x = kd_nn_flatten(g, name(buf, i, "teacher.flat"), out->teacher);
    out->teacher_out = kd_nn_linear(g, name(buf, i, "teacher.linear"), x, t->k.dim, true);
    kd_graph_output(g, out->teacher_out);
}

kd_status kd_loss_project(const kd_loss *l, int i, kd_graph *g, kd_node tap, const kd_loss_dims *teacher,
                          kd_loss_nodes *out, kd_err *err)
{
    const kd__term *t = &l->term[i];
    int64_t s[KD_MAX_DIMS];
    int ndims = kd_graph_node_shape(g, tap, s);
    kd_status st = KD_OK;
    kd_err why = {0};
    *out = (kd_loss_nodes){tap, -1, -1};
    if (t->o == &kd__objective_crd)
        embed(t, g, i, tap, teacher, out);
    else if (kd__is(t->k.projection, "regressor") && ndims == 3 && teacher->ndims == 3)
        st = to_map(g, i, tap, s, teacher, &out->student, &why);
    else if (t->k.projection && !kd__is(t->k.projection, "none"))
        st = to_width(g, i, tap, ndims, s, teacher, &out->student, &why);
    if (st) return kd_fail(err, st, "%s: tap %s: %s", t->label, kd_graph_node_name(g, tap), why.msg);
    kd_graph_output(g, out->student);
    return KD_OK;
}
