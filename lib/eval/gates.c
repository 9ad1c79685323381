/* lib/eval/gates.c - reads gates: what a student must come to, one line each.
 *
 *     gates:
 *       - accuracy >= teacher - 0.01
 *       - accuracy[*] >= teacher - 0.05      # every slice
 *       - recall[class=Shirt] >= 0.7
 *       - latency_us <= 200
 *
 * A gate is a measure, a comparison, and a number or a reference (teacher, plain, release) with a number
 * added or multiplied. It is a small language on purpose: whoever reads a failed gate in a log should not
 * need a manual. All that can be wrong with it is found when the file is read, before a model is run, and
 * said with the line and the nearest word that is known. The presets are files of the same kind, kept here.
 */
#include "gates_private.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- measures ----------------------------------------------------------------------------- */

enum { SHARE = 8, EXACT = 16 }; /* from 0 to 1; not an estimate from rows: has no confidence bounds */

static const struct {
    const char *key;
    int flags; /* scopes it is measured in, SHARE, EXACT */
} measures[] = {
    {"accuracy", KD__WHOLE | KD__SLICE | SHARE},
    {"top3", KD__WHOLE | SHARE},
    {"top5", KD__WHOLE | SHARE},
    {"macro_f1", KD__WHOLE | KD__SLICE | SHARE},
    {"macro_precision", KD__WHOLE | SHARE},
    {"macro_recall", KD__WHOLE | SHARE},
    {"loss", KD__WHOLE | KD__SLICE},
    {"perplexity", KD__WHOLE},
    {"ece", KD__WHOLE | KD__SLICE | SHARE},
    {"ece_adaptive", KD__WHOLE | SHARE},
    {"mce", KD__WHOLE | SHARE},
    {"confidence_mean", KD__WHOLE | SHARE},
    {"agreement", KD__WHOLE | KD__SLICE | SHARE},
    {"kl", KD__WHOLE | KD__SLICE},
    {"kl_p50", KD__WHOLE},
    {"kl_p90", KD__WHOLE},
    {"kl_p99", KD__WHOLE},
    {"kl_max", KD__WHOLE},
    {"kl_p95", KD__WHOLE | EXACT},
    {"kl_p999", KD__WHOLE | EXACT},
    {"kl_least", KD__WHOLE | EXACT},
    {"cross_entropy", KD__WHOLE | EXACT},
    {"ppl_ratio", KD__WHOLE | EXACT},
    {"rms_dp", KD__WHOLE | EXACT},
    {"distinct1", KD__WHOLE | SHARE | EXACT},
    {"distinct2", KD__WHOLE | SHARE | EXACT},
    {"distinct3", KD__WHOLE | SHARE | EXACT},
    {"repetition", KD__WHOLE | SHARE | EXACT},
    {"tokens_s", KD__WHOLE | EXACT},
    {"kl_gain", KD__WHOLE | EXACT},
    {"loss_gain", KD__WHOLE | EXACT},
    {"copied_mistakes", KD__WHOLE | KD__SLICE | SHARE},
    {"other_mistakes", KD__WHOLE | SHARE},
    {"mended_mistakes", KD__WHOLE | KD__SLICE | SHARE},
    {"new_mistakes", KD__WHOLE | KD__SLICE | SHARE},
    {"precision", KD__CLASS | SHARE},
    {"recall", KD__CLASS | SHARE},
    {"f1", KD__CLASS | SHARE},
    {"accuracy_gain", KD__WHOLE | EXACT},
    {"p_value", KD__WHOLE | EXACT},
    {"params", KD__WHOLE | EXACT},
    {"macs", KD__WHOLE | EXACT},
    {"file_bytes", KD__WHOLE | EXACT},
    {"memory_bytes", KD__WHOLE | EXACT},
    {"latency_us", KD__WHOLE | EXACT},
    {"latency_p99_us", KD__WHOLE | EXACT},
    {"throughput_rows_s", KD__WHOLE | EXACT},
    {"train_s", KD__WHOLE | EXACT},
};

static int flags_of(const char *key)
{
    for (size_t i = 0; i < KD_COUNT(measures); i++)
        if (!strcmp(measures[i].key, key)) return measures[i].flags;
    return 0;
}

/* ---- one gate ----------------------------------------------------------------------------- */

typedef struct scan {
    const char *at;
    kd__gate *g;
    kd_err *err;
} scan;

__attribute__((format(printf, 2, 3))) static kd_status refuse(const scan *s, const char *fmt, ...)
{
    char why[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    return kd_fail(s->err, KD_EUSAGE, "%s: gate '%.120s': %s", s->g->where, s->g->text, why);
}

static void skip(scan *s)
{
    while (isspace((unsigned char)*s->at)) s->at++;
}

/* A word of letters, digits and '_', "" if there is none. */
static void take_word(scan *s, char *out, size_t len)
{
    skip(s);
    const char *from = s->at;
    while (isalnum((unsigned char)*s->at) || *s->at == '_') s->at++;
    snprintf(out, len, "%.*s", (int)(s->at - from), from);
}

/* What stands next, for "found ...". */
static const char *found(scan *s, char *buf, size_t len)
{
    skip(s);
    snprintf(buf, len, *s->at ? "'%.40s'" : "nothing", s->at);
    return buf;
}

static const char *nearest(const char *word)
{
    const char *keys[KD_COUNT(measures)];
    for (size_t i = 0; i < KD_COUNT(measures); i++) keys[i] = measures[i].key;
    return kd_nearest(word, keys, KD_COUNT(measures));
}

static kd_status take_measure(scan *s, int *flags)
{
    kd__gate *g = s->g;
    char buf[64];
    take_word(s, g->key, sizeof g->key);
    if (!*g->key) return refuse(s, "found %s, expected a measure", found(s, buf, sizeof buf));
    const size_t n = strlen(g->key);
    if (!flags_of(g->key)) {
        g->low = n > 4 && !strcmp(g->key + n - 4, "_low");
        g->high = n > 5 && !strcmp(g->key + n - 5, "_high");
        if (g->low || g->high) g->key[n - (g->low ? 4 : 5)] = '\0';
    }
    if (!(*flags = flags_of(g->key))) {
        const char *near = nearest(g->key);
        return near ? refuse(s, "unknown measure '%s' (did you mean '%s'?)", g->key, near)
                    : refuse(s, "unknown measure '%s'; docs/evaluation.md lists them", g->key);
    }
    if ((g->low || g->high) && *flags & EXACT) return refuse(s, "%s has no confidence bounds", g->key);
    return KD_OK;
}

/* [*]: every slice; [class=*]: every class; [class=NAME]; any other [NAME]: a slice. Names may hold pairs of
 * brackets. */
static kd_status take_scope(scan *s, int flags)
{
    kd__gate *g = s->g;
    g->scope = KD__WHOLE;
    skip(s);
    if (*s->at == '[') {
        const char *from = s->at + 1, *end = s->at;
        int depth = 0;
        do depth += (*end == '[') - (*end == ']');
        while (depth && *end++);
        if (depth) return refuse(s, "'[' without ']'");
        g->scope = strncmp(from, "class=", 6) ? KD__SLICE : KD__CLASS;
        if (g->scope == KD__CLASS) from += 6;
        const int n = snprintf(g->name, sizeof g->name, "%.*s", (int)(end - from), from);
        if (n <= 0 || (size_t)n >= sizeof g->name)
            return refuse(s, "expected [*], [class=*], or the name of a slice or class");
        if (!strcmp(g->name, "*")) *g->name = '\0';
        s->at = end + 1;
    }
    if (flags & (int)g->scope) return KD_OK;
    if (flags & KD__CLASS) return refuse(s, "%s is a class's: write %s[class=*]", g->key, g->key);
    return refuse(s, "%s is not measured by %s", g->key, g->scope == KD__CLASS ? "class" : "slice");
}

static kd_status take_comparison(scan *s)
{
    char buf[64];
    skip(s);
    s->g->ceiling = *s->at == '<';
    if (*s->at != '<' && *s->at != '>')
        return refuse(s, "found %s, expected one of >=, <=, >, <", found(s, buf, sizeof buf));
    s->g->strict = *++s->at != '=';
    s->at += !s->g->strict;
    return KD_OK;
}

static kd_status take_number(scan *s)
{
    char buf[64], *end;
    skip(s);
    s->g->number = strtod(s->at, &end);
    if (end == s->at || isalpha((unsigned char)*s->at) || !isfinite(s->g->number))
        return refuse(s, "found %s, expected a number%s", found(s, buf, sizeof buf),
                      s->g->reference == KD__NUMBER ? ", teacher, plain or release" : "");
    s->at = end;
    return KD_OK;
}

/* A number; or a reference, perhaps with + - or * and a number. */
static kd_status take_limit(scan *s, int flags)
{
    static const char *const names[] = {[KD__TEACHER - 1] = "teacher",
                                        [KD__PLAIN - 1] = "plain",
                                        [KD__RELEASE - 1] = "release"};
    kd__gate *g = s->g;
    char word[64];
    skip(s);
    if (!isalpha((unsigned char)*s->at)) {
        kd_status st = take_number(s);
        if (!st && flags & SHARE && (g->number < 0 || g->number > 1))
            st = refuse(s, "%s is a share from 0 to 1, found %g", g->key, g->number);
        return st;
    }
    take_word(s, word, sizeof word);
    for (size_t i = 0; i < KD_COUNT(names); i++)
        if (!strcmp(word, names[i])) g->reference = (kd__reference)(i + 1);
    if (g->reference == KD__NUMBER) {
        const char *near = kd_nearest(word, names, KD_COUNT(names));
        return near ? refuse(s, "unknown reference '%s' (did you mean '%s'?)", word, near)
                    : refuse(s, "found '%s', expected a number, teacher, plain or release", word);
    }
    if (g->reference == KD__PLAIN && g->scope != KD__WHOLE)
        return refuse(s, "plain students are measured as a whole, not by %s",
                      g->scope == KD__CLASS ? "class" : "slice");
    skip(s);
    if (!*s->at || !strchr("+-*", *s->at)) return KD_OK;
    g->sign = *s->at++;
    return take_number(s);
}

static kd_status parse(kd__gate *g, bool safe, kd_err *err)
{
    scan s = {.at = g->text, .g = g, .err = err};
    int flags = 0;
    char word[64];
    kd_status st = take_measure(&s, &flags);
    if (!st) st = take_scope(&s, flags);
    if (!st) st = take_comparison(&s);
    if (!st) st = take_limit(&s, flags);
    if (st) return st;
    const char *rest = (skip(&s), s.at);
    take_word(&s, word, sizeof word);
    skip(&s);
    if (*s.at || (*word && strcmp(word, "point") && strcmp(word, "safe")))
        return refuse(&s, "found '%.40s', expected the end, 'point' or 'safe'", rest);
    if (*word) safe = !strcmp(word, "safe");
    g->safe = safe && !(flags & EXACT) && !g->low && !g->high;
    return KD_OK;
}

/* ---- files and presets -------------------------------------------------------------------- */

static const kd_option rows[] = {
    {"Gates", "gates", "", "GATE", 0, KD_OPTION_STRINGS, offsetof(kd_gates, texts), NULL, 0, 0, NULL,
     "what must hold: MEASURE >= NUMBER, MEASURE <= teacher + NUMBER, ..."},
    {"Gates", "bounds", "", NULL, 0, KD_OPTION_CHOICE, offsetof(kd_gates, bounds), "point", 0, 0,
     "point|safe", "what must pass: the measure, or its confidence bound on the side of failing"},
    {"Gates", "students", "", "NAME", 0, KD_OPTION_STRINGS, offsetof(kd_gates, students), NULL, 0, 0, NULL,
     "the students that are judged [all but the teacher]"},
    {"Gates", "release", "", "FILE", 0, KD_OPTION_STRING, offsetof(kd_gates, release), NULL, 0, 0, NULL,
     "results of the last release"},
};

static const struct {
    const char *name, *text;
} presets[] = {
    {"fast", "gates:\n"
             "  - accuracy >= teacher - 0.02\n"
             "  - ece <= 0.1\n"
             "  - new_mistakes <= 0.1\n"},
    {"careful", "bounds: safe\n"
                "gates:\n"
                "  - accuracy >= teacher - 0.01\n"
                "  - ece <= 0.05\n"
                "  - new_mistakes <= 0.05\n"
                "  - accuracy[*] >= teacher - 0.05\n"
                "  - ece[*] <= 0.1 point\n"
                "  - precision[class=*] >= teacher - 0.05\n"
                "  - recall[class=*] >= teacher - 0.05\n"},
};

const char *kd_gates_preset(const char *name)
{
    for (size_t i = 0; i < KD_COUNT(presets); i++)
        if (!strcmp(presets[i].name, name)) return presets[i].text;
    return NULL;
}

static kd_status read_all(kd_gates *g, const char *file, kd_err *err)
{
    const char *preset = kd_gates_preset(file);
    kd_status st = kd_config_add(&g->config, rows, KD_COUNT(rows), g, err);
    if (st) return st;
    if (preset)
        st = kd_config_yaml_text(&g->config, file, preset, strlen(preset), err);
    else
        st = kd_config_yaml(&g->config, file, err);
    if (st) return st;
    g->path = g->config.path;
    if (!g->texts.n) return kd_fail(err, KD_EUSAGE, "%s: no gates; list them under 'gates:'", file);
    if (!(g->v = calloc(g->texts.n, sizeof *g->v)))
        return kd_fail(err, KD_ENOMEM, "%s: no memory for %zu gates", file, g->texts.n);
    for (g->n = 0; g->n < g->texts.n && !st; g->n++) {
        kd__gate *gate = &g->v[g->n];
        gate->text = g->texts.v[g->n];
        kd_config_where_item(&g->config, "gates", g->n, gate->where, sizeof gate->where);
        st = parse(gate, !strcmp(g->bounds, "safe"), err);
    }
    return st;
}

kd_status kd_gates_open(kd_gates **out, const char *file, kd_err *err)
{
    kd_gates *g = calloc(1, sizeof *g);
    *out = NULL;
    if (!g) return kd_fail(err, KD_ENOMEM, "%s: no memory for gates", file);
    kd_status st = read_all(g, file, err);
    if (st)
        kd_gates_close(g);
    else
        *out = g;
    return st;
}

void kd_gates_close(kd_gates *g)
{
    if (!g) return;
    free(g->v);
    kd_config_release(&g->config);
    free(g);
}

const char *kd_gates_release(const kd_gates *g) { return g->release; }
