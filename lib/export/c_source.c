/* c_source.c - a student as one C99 source: arrays, a few loops (c_kernels.c), and predict(), which calls
 * them in order.
 *
 * All values lie in one work area that the caller brings. Each has its place from the layer that makes it to
 * the last one that reads it; the largest are placed first, so that the area of a chain of layers is no
 * larger than the two largest neighbours together. Layers that change nothing in memory (a flatten of one
 * channel, input that needs no scaling) or can work in place (an addition) have their input's.
 *
 * Numbers are printed with nine digits, which give back the same float. Text that comes from model folders is
 * untrusted: in comments only plain letters stay, in strings every other byte is an octal escape.
 */
#include "export_private.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

struct kd__c_file {
    FILE *f;
    const kd__net *net;
    const kd_model_export *o;
    const char *prefix;
    char upper[80]; /* the same in capitals */
    /* Per layer. */
    char (*where)[32]; /* its value: "work + 784", "input", "logits" */
    size_t *offset;    /* in the work area, in floats */
    int *same_as;      /* the layer in whose place its value is; itself: its own */
    int *last_use;     /* the last layer that reads what is in its place */
    bool *placed;
    size_t work; /* floats */
};

/* ---- where values lie --------------------------------------------------------------------------- */

static bool scales(const kd__c_file *c)
{
    const kd_model *m = c->net->m;
    return (c->o->preprocess && (m->mean != 0 || m->scale != 1)) || !strcmp(c->o->input, "u8");
}

/* Whether its output is its input, number for number. */
static bool changes_nothing(const kd__c_file *c, const kd__layer *l)
{
    if (!l->inputs) return !scales(c);
    const kd__layer *x = l->in[0];
    const int64_t channels = x->ndims == 3 ? x->dims[2] : 1;
    return !strcmp(l->how->op, "flatten") && (channels == 1 || (size_t)channels == x->size);
}

static int root(const kd__c_file *c, int i)
{
    while (c->same_as[i] != i) i = c->same_as[i];
    return i;
}

/* Whether layer i's value, which is nobody else's, is kept in the work area. */
static bool in_work(const kd__c_file *c, int i)
{
    return c->same_as[i] == i && i < c->net->layers - 1 && (i || scales(c));
}

/* Which layers share a value's memory, and how long it is read. */
static void share(kd__c_file *c)
{
    const int n = c->net->layers;
    for (int i = 0; i < n; i++) {
        const kd__layer *l = &c->net->layer[i];
        c->same_as[i] = i && changes_nothing(c, l) ? root(c, l->in[0]->index) : i;
        for (int k = 0; k < l->inputs; k++) c->last_use[root(c, l->in[k]->index)] = i;
    }
    for (int i = 1; i < n - 1; i++) {
        const int x = root(c, c->net->layer[i].in[0]->index);
        if (!c->net->layer[i].how->in_place || c->same_as[i] != i || !in_work(c, x) || c->last_use[x] != i)
            continue;
        c->same_as[i] = x;
        c->last_use[x] = c->last_use[i];
    }
}

/* The lowest place for layer i's value beside those that have theirs and are needed at the same time. */
static size_t lowest(const kd__c_file *c, int i)
{
    const size_t size = c->net->layer[i].size;
    size_t at = 0;
    for (bool moved = true; moved;) {
        moved = false;
        for (int k = 0; k < c->net->layers; k++) {
            const size_t end = c->offset[k] + c->net->layer[k].size;
            if (!c->placed[k] || c->last_use[k] < i || c->last_use[i] < k) continue;
            if (at >= end || c->offset[k] >= at + size) continue;
            at = end;
            moved = true;
        }
    }
    return at;
}

/* The largest values first: small ones find room between them. */
static void place(kd__c_file *c)
{
    for (;;) {
        int next = -1;
        for (int i = 0; i < c->net->layers; i++)
            if (in_work(c, i) && !c->placed[i] &&
                (next < 0 || c->net->layer[i].size > c->net->layer[next].size))
                next = i;
        if (next < 0) return;
        c->offset[next] = lowest(c, next);
        c->placed[next] = true;
        c->work = kd_max_size(c->work, c->offset[next] + c->net->layer[next].size);
    }
}

static kd_status plan(kd__c_file *c, kd_err *err)
{
    const int n = c->net->layers;
    for (const kd__layer *l = c->net->layer; l < c->net->layer + n; l++) {
        if (!l->how->c_call)
            return kd_fail(err, KD_EUNSUPPORTED, "layer %s: a C source has no words for its kind, %s",
                           l->name, l->how->op);
        if (l->weights > INT_MAX || l->size > INT_MAX)
            return kd_fail(err, KD_ELIMIT, "layer %s: over 2^31 numbers, too many for one C source", l->name);
    }
    share(c);
    place(c);
    for (int i = 0; i < n; i++) {
        const int r = root(c, i);
        if (c->placed[r])
            snprintf(c->where[i], sizeof c->where[i], "work + %zu", c->offset[r]);
        else
            snprintf(c->where[i], sizeof c->where[i], "%s", r ? "logits" : "input");
    }
    return c->work <= INT_MAX ? KD_OK : kd_fail(err, KD_ELIMIT, "a work area of over 2^31 numbers");
}

/* ---- arrays ------------------------------------------------------------------------------------- */

/* "-0.125f", "3.0f" */
static void put_float(FILE *f, float v)
{
    char text[40];
    snprintf(text, sizeof text, "%.9g", (double)v);
    fprintf(f, "%s%sf", text, strpbrk(text, ".e") ? "" : ".0");
}

static void put_floats(FILE *f, const char *name, int index, const float *v, size_t n)
{
    fprintf(f, "static const float %s%d[] = {", name, index);
    for (size_t i = 0; i < n; i++) {
        fputs(i % 8 ? ", " : i ? ",\n    " : "\n    ", f);
        put_float(f, v[i]);
    }
    fputs("\n};\n", f);
}

/* (out, c, k, k) or (out, c) to (k, k, c, out). */
static void put_weights(FILE *f, const kd__layer *l)
{
    const size_t out = (size_t)l->wdims[0], each = l->weights / out,
                 taps = l->wndims == 4 ? (size_t)(l->wdims[2] * l->wdims[3]) : 1, channels = each / taps;
    size_t n = 0;
    fprintf(f, "static const weight w%d[] = {", l->index);
    for (size_t t = 0; t < taps; t++)
        for (size_t c = 0; c < channels; c++)
            for (size_t o = 0; o < out; o++, n++) {
                const size_t at = o * each + c * taps + t, row = l->q ? 20 : 8;
                fputs(n % row ? ", " : n ? ",\n    " : "\n    ", f);
                if (l->q)
                    fprintf(f, "%d", l->q[at]);
                else
                    put_float(f, l->w[at]);
            }
    fputs("\n};\n", f);
}

/* Whether its function takes a shape. */
static bool has_shape(const kd__layer *l) { return l->w || l->how->c_call == kd__c_maxpool; }

static void put_layer(kd__c_file *c, const kd__layer *l)
{
    FILE *f = c->f;
    const kd__layer *x = l->inputs ? l->in[0] : l;
    const bool image = x->ndims == 3, map = l->ndims == 3;
    if (!has_shape(l)) return;
    fprintf(f, "\n/* %s: %s, %s */\n", l->name, l->how->op, l->relu ? "relu" : "no relu");
    if (l->w) put_weights(f, l);
    if (l->q) put_floats(f, "s", l->index, l->scale, (size_t)l->wdims[0]);
    if (l->bias) put_floats(f, "b", l->index, l->bias, (size_t)l->wdims[0]);
    fprintf(f, "static const shape g%d = {%lld, %lld, %lld, %lld, %lld, %lld, %d, %d, %d, %d};\n", l->index,
            (long long)(image ? x->dims[0] : 1), (long long)(image ? x->dims[1] : 1),
            (long long)(image ? x->dims[2] : (int64_t)x->size), (long long)(map ? l->dims[0] : 1),
            (long long)(map ? l->dims[1] : 1), (long long)(map ? l->dims[2] : (int64_t)l->size), l->f.k,
            l->f.stride, l->f.pad, l->relu != NULL);
}

/* ---- calls, a line each ------------------------------------------------------------------------- */

static const char *in(const kd__c_file *c, const kd__layer *l, int i) { return c->where[l->in[i]->index]; }
static const char *out(const kd__c_file *c, const kd__layer *l) { return c->where[l->index]; }

void kd__c_input(kd__c_file *c, const kd__layer *l)
{
    const kd_model *m = c->net->m;
    fprintf(c->f, "    centre(input, %s, ", out(c, l));
    put_float(c->f, c->o->preprocess ? m->mean : 0);
    fputs(", ", c->f);
    put_float(c->f, c->o->preprocess ? m->scale : 1);
    fprintf(c->f, ", %zu);\n", l->size);
}

static void weighted(kd__c_file *c, const kd__layer *l)
{
    const int i = l->index;
    fprintf(c->f, "    %s(%s, %s, w%d, ", l->how->op, in(c, l, 0), out(c, l), i);
    fprintf(c->f, l->q ? "s%d, " : "0, ", i);
    fprintf(c->f, l->bias ? "b%d, " : "0, ", i);
    fprintf(c->f, "&g%d);\n", i);
}

void kd__c_linear(kd__c_file *c, const kd__layer *l) { weighted(c, l); }
void kd__c_conv(kd__c_file *c, const kd__layer *l) { weighted(c, l); }

void kd__c_relu(kd__c_file *c, const kd__layer *l)
{
    fprintf(c->f, "    relu(%s, %s, %zu);\n", in(c, l, 0), out(c, l), l->size);
}

void kd__c_maxpool(kd__c_file *c, const kd__layer *l)
{
    fprintf(c->f, "    maxpool(%s, %s, &g%d);\n", in(c, l, 0), out(c, l), l->index);
}

static void over_pixels(kd__c_file *c, const kd__layer *l)
{
    const int64_t channels = l->in[0]->dims[2];
    fprintf(c->f, "    %s(%s, %s, %lld, %lld);\n", l->how->op, in(c, l, 0), out(c, l),
            (long long)l->in[0]->size / channels, (long long)channels);
}

void kd__c_gap(kd__c_file *c, const kd__layer *l) { over_pixels(c, l); }
void kd__c_flatten(kd__c_file *c, const kd__layer *l) { over_pixels(c, l); }

void kd__c_add(kd__c_file *c, const kd__layer *l)
{
    fprintf(c->f, "    add(%s, %s, %s, %zu, %d);\n", in(c, l, 0), in(c, l, 1), out(c, l), l->size,
            l->relu != NULL);
}

/* ---- the file ----------------------------------------------------------------------------------- */

static void put_plain(FILE *f, const char *s)
{
    for (; *s; s++)
        fputc((*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') || (*s >= '0' && *s <= '9') ||
                      strchr(" ._-", *s)
                  ? *s
                  : '_',
              f);
}

static void put_string(FILE *f, const char *s)
{
    fputc('"', f);
    for (; *s; s++) {
        const unsigned char b = (unsigned char)*s;
        if (b >= ' ' && b < 0x7f && !strchr("\"\\?", b))
            fputc(b, f);
        else
            fprintf(f, "\\%03o", b);
    }
    fputc('"', f);
}

static const char *number(const kd__c_file *c)
{
    return strcmp(c->o->input, "u8") ? "float" : "unsigned char";
}

static void put_head(kd__c_file *c, uint64_t weight_bytes)
{
    FILE *f = c->f;
    const kd_model *m = c->net->m;
    const kd__layer *x = &c->net->layer[0];
    fprintf(f, "/* %spredict() - the student ", c->prefix);
    put_plain(f, m->name);
    fprintf(f, " as C99 without dependencies; made by kd-export " KD_VERSION ".\n *\n");
    fprintf(f, " *     static float work[%sPREDICT_WORK], logits[%sPREDICT_CLASSES];\n", c->upper, c->upper);
    fprintf(f, " *     %spredict(input, logits, work);\n *\n * input: a row of", c->prefix);
    for (int i = 0; i < x->ndims; i++) fprintf(f, "%s %lld", i ? " x" : "", (long long)x->dims[i]);
    fprintf(f, " numbers%s, ", x->ndims == 3 ? " (height, width, channels)" : "");
    if (c->o->preprocess)
        fprintf(f, "raw as in training:\n * they are centred and scaled here.\n");
    else
        fprintf(f, "each (raw - %.9g) * %.9g.\n", (double)m->mean, (double)m->scale);
    fprintf(f, " * logits: one a class; the class of the largest is the answer. work: what it holds does not "
               "matter; "
               "two threads\n * need two. Not even the mathematical library is needed.\n *\n");
    fprintf(f,
            " * Flash: %llu bytes of constants and some 2 KiB of code. RAM: %llu bytes of work, %llu of "
            "input, %llu "
            "of logits.\n * Multiply-adds a row: %.0f.\n *\n",
            (unsigned long long)weight_bytes, (unsigned long long)(c->work * sizeof(float)),
            (unsigned long long)(x->size * (strcmp(c->o->input, "u8") ? sizeof(float) : 1)),
            (unsigned long long)(c->net->layer[c->net->layers - 1].size * sizeof(float)),
            kd_graph_macs(m->graph));
    fprintf(f, " *     cc -std=c99 -O2 -DKD_MAIN FILE.c && ./a.out <rows.bytes        a line of logits a "
               "row\n */\n");
}

static void put_constants(kd__c_file *c)
{
    FILE *f = c->f;
    const json_t *labels = c->net->m->labels;
    const kd__layer *last = &c->net->layer[c->net->layers - 1];
    fprintf(f, "#define %sPREDICT_INPUT %zu\n#define %sPREDICT_CLASSES %zu\n#define %sPREDICT_WORK %zu\n",
            c->upper, c->net->layer[0].size, c->upper, last->size, c->upper, kd_max_size(c->work, 1));
    fprintf(f, "void %spredict(const %s *input, float *logits, float *work);\n", c->prefix, number(c));
    if (!labels) return;
    fprintf(f, "extern const char *const %spredict_labels[%sPREDICT_CLASSES];\n", c->prefix, c->upper);
    fprintf(f, "const char *const %spredict_labels[%sPREDICT_CLASSES] = {", c->prefix, c->upper);
    for (size_t i = 0; i < json_array_size(labels); i++) {
        fputs(i ? ",\n    " : "\n    ", f);
        put_string(f, json_string_value(json_array_get(labels, i)));
    }
    fputs("\n};\n", f);
}

static void put_functions(kd__c_file *c)
{
    FILE *f = c->f;
    const kd__net *net = c->net;
    bool weights = false, shapes = false;
    for (int i = 0; i < net->layers; i++)
        weights |= net->layer[i].w != NULL, shapes |= has_shape(&net->layer[i]);
    fprintf(f, "\ntypedef %s number;\n", number(c));
    if (weights) fprintf(f, "typedef %s weight;\n", strcmp(c->o->weights, "int8") ? "float" : "signed char");
    if (shapes) fputs(kd__c_shape_text, f);
    if (weights) fputs(kd__c_finish_text, f);
    for (int i = 0; i < net->layers; i++) {
        bool there = changes_nothing(c, &net->layer[i]);
        for (int k = 0; k < i && !there; k++)
            there = net->layer[k].how == net->layer[i].how && !changes_nothing(c, &net->layer[k]);
        if (!there) fputs(net->layer[i].how->c_function, f);
    }
}

static void put_predict(kd__c_file *c)
{
    FILE *f = c->f;
    fprintf(f, "\nvoid %spredict(const number *input, float *logits, float *work)\n{\n", c->prefix);
    for (int i = 0; i < c->net->layers; i++)
        if (!changes_nothing(c, &c->net->layer[i])) c->net->layer[i].how->c_call(c, &c->net->layer[i]);
    fprintf(f, "%s}\n", c->work ? "" : "    (void)work;\n");
}

/* The demonstration: rows from standard input, lines to standard output. */
static void put_main(kd__c_file *c)
{
    FILE *f = c->f;
    const char *up = c->upper;
    const bool bytes = !strcmp(c->o->input, "u8");
    fprintf(f,
            "\n#ifdef KD_MAIN\n#include <stdio.h>\n\n"
            "/* Rows of bytes from standard input%s; for each a line with its logits. */\n"
            "int main(%s)\n{\n"
            "    static unsigned char raw[%sPREDICT_INPUT];\n"
            "    static float logits[%sPREDICT_CLASSES], work[%sPREDICT_WORK];\n",
            bytes ? "" : ", of floats with an argument", bytes ? "void" : "int argc, char **argv", up, up,
            up);
    if (bytes)
        fprintf(f,
                "    while (fread(raw, %sPREDICT_INPUT, 1, stdin) == 1) {\n        %spredict(raw, logits, "
                "work);\n",
                up, c->prefix);
    else
        fprintf(f,
                "    static float row[%sPREDICT_INPUT];\n"
                "    const int floats = argc > 1 && argv[1] != 0;\n"
                "    while (floats ? fread(row, sizeof row, 1, stdin) == 1 : fread(raw, %sPREDICT_INPUT, 1, "
                "stdin) == 1) {\n"
                "        for (int i = 0; i < %sPREDICT_INPUT && !floats; i++) row[i] = raw[i];\n"
                "        %spredict(row, logits, work);\n",
                up, up, up, c->prefix);
    fprintf(f,
            "        for (int i = 0; i < %sPREDICT_CLASSES; i++)\n"
            "            printf(\"%%.9g%%c\", logits[i], i + 1 < %sPREDICT_CLASSES ? ' ' : '\\n');\n"
            "    }\n    return 0;\n}\n#endif\n",
            up, up);
}

kd_status kd__write_c(FILE *f, const kd__net *net, const kd_model_export *o, const char *command,
                      kd_model_export_facts *facts, kd_err *err)
{
    kd_arena memory = {0};
    const size_t n = (size_t)net->layers;
    kd__c_file c = {.f = f, .net = net, .o = o, .prefix = o->prefix ? o->prefix : ""};
    (void)command;
    for (size_t i = 0; c.prefix[i] && i + 1 < sizeof c.upper; i++)
        c.upper[i] = (char)(c.prefix[i] >= 'a' && c.prefix[i] <= 'z' ? c.prefix[i] - 32 : c.prefix[i]);
    c.where = kd_arena_alloc(&memory, n, sizeof *c.where);
    c.offset = kd_arena_alloc(&memory, n, sizeof *c.offset);
    c.same_as = kd_arena_alloc(&memory, n, sizeof *c.same_as);
    c.last_use = kd_arena_alloc(&memory, n, sizeof *c.last_use);
    c.placed = kd_arena_alloc(&memory, n, sizeof *c.placed);
    kd_status st = c.where && c.offset && c.same_as && c.last_use && c.placed
                       ? plan(&c, err)
                       : kd_fail(err, KD_ENOMEM, "no memory for the C source");
    if (!st) {
        facts->work_bytes = c.work * sizeof(float);
        put_head(&c, facts->weight_bytes);
        put_constants(&c);
        put_functions(&c);
        for (int i = 0; i < net->layers; i++) put_layer(&c, &net->layer[i]);
        put_predict(&c);
        put_main(&c);
    }
    kd_arena_release(&memory);
    return st;
}
