/* term.c - one term of a mix: its objective, its keys, its schedules.
 *
 * A term is written as a mapping in YAML and travels as text, "name=dkd,weight=1,beta=8". All keys of all
 * objectives share one option table, so that a key means the same, has one range and one help text
 * wherever it occurs; an objective's row says which of them it has and with which defaults. Values are set in
 * the order objective, preset, user.
 *
 * A schedule is a pure function of the epoch, so a resumed run needs no state for it.
 */
#include "loss_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define G                     "Objective"
#define CHOICE(f, c, h)       KD_OPT_CHOICE(G, kd__keys, f, #f, 0, NULL, c, h)
#define TEXT(f, m, h)         KD_OPT_STRING(G, kd__keys, f, #f, m, 0, NULL, h)
#define REAL(f, m, lo, hi, h) KD_OPT_REAL(G, kd__keys, f, #f, m, 0, NULL, lo, hi, h)
#define INT(f, m, lo, hi, h)  KD_OPT_INT(G, kd__keys, f, #f, m, 0, NULL, lo, hi, h)
#define TRUTH(f, h)           KD_OPT_BOOL(G, kd__keys, f, #f, 0, NULL, h)
const kd_option kd_loss_term_options[] = {
    TEXT(name, "OBJECTIVE", "which objective"),
    TEXT(preset, "NAME", "sets the keys below as a framework has them; keys given beside it win"),
    TEXT(weight, "W", "factor in the mix; a number or a schedule over epochs"),
    TEXT(temperature, "T", "both outputs are divided by T; a number or a schedule over epochs"),
    REAL(teacher_temperature, "T", 0, 1000, "T of the teacher's side; 0: the same"),
    REAL(dump_temperature, "T", 0.01, 1000, "temperature that the stored log-probabilities have already"),
    TRUTH(t2, "multiply by T squared"),
    CHOICE(reduction, "batch|token|element",
           "the sum is divided by rows (a token is a row), or by rows * numbers"),
    CHOICE(kl_form, "kl|cross_entropy", "with the teacher's entropy subtracted or not (same gradient)"),
    CHOICE(direction, "forward|reverse", "KL(p||q) or KL(q||p)"),
    CHOICE(sparse, "raw|renorm|bucket|both|uniform|sampled",
           "what stands for the classes that were not kept"),
    CHOICE(tail, "stored|power", "tail mass: as stored for T, or one class tempered by itself, r^(dump T/T)"),
    REAL(alpha, "A", 0, 1e6, "first coefficient of the formula"),
    REAL(beta, "B", 0, 1e6, "second coefficient of the formula"),
    REAL(gamma, "G", 0, 1e6, "third coefficient of the formula"),
    REAL(eps, "E", 0, 1, "keeps divisions and logarithms away from 0"),
    CHOICE(eps_mode, "add|floor", "eps is added to the product of norms, or each norm is at least eps"),
    REAL(label_smoothing, "SHARE", 0, 0.999, "part of the target that is spread over all classes"),
    INT(row_norm, "N", 1, 2, "rows are scaled to this norm: 2 Euclidean, 1 sum of absolute values"),
    INT(std_ddof, "N", 0, 1, "the standard deviation divides by C - N"),
    INT(power, "P", 1, 8, "features are raised to P before channels are joined"),
    CHOICE(mode, "code|paper", "as the authors' code has it, or as the paper writes it"),
    CHOICE(metric, "cosine|mse|l2", "distance of two vectors"),
    CHOICE(teacher_scores, "scores|differences", "the teacher gives scores, or positive minus negative"),
    CHOICE(
        projection, "none|linear|regressor",
        "learned between student and teacher: nothing, one linear layer, or convolution + batch norm + ReLU"),
    INT(dim, "N", 1, 65536, "numbers in the learned embedding"),
    INT(negatives, "K", 1, 1e6, "negatives a row"),
    REAL(momentum, "M", 0, 1, "share of the old entry when a bank is updated"),
    TRUTH(normalize, "scale vectors to length 1 first"),
    INT(heads, "N", 1, 4096, "relation heads the features are split into"),
    TEXT(relations, "PAIRS", "which of 1 query, 2 key, 3 value meet, with weights: 1-1*0.5 3-3"),
    TRUTH(symmetric, "the mean of both directions: queries among answers, answers among queries"),
    CHOICE(candidates, "batch|own", "a query's: all answers and negatives of the batch, or those of its row"),
    CHOICE(positives, "own|group",
           "right for a query: its answer, others of its group left out; or all answers of its group"),
    TEXT(prefixes, "LENGTHS",
         "vectors are cut to these first numbers, scaled to length 1; sum over them: 384 192 96*0.5"),
    REAL(wrong, "W", 0, 1, "weight of rows whose label is not the teacher's most probable class"),
    TEXT(teacher, "NAME",
         "which teacher of the store; not needed when there is one. Several: a b, or a*0.7 b*0.3"),
    CHOICE(
        ensemble, "logits|probabilities|best|turns",
        "several teachers are joined by the mean of their logits, of their probabilities, or row by row the "
        "one that knows the label best is taken, or each teaches an epoch in turn"),
    TEXT(tap, "NODE", "the student's node whose value is compared"),
    TEXT(feature, "NAME",
         "the teacher's feature column, its part behind feat.; not needed when there is one"),
};
const size_t kd_loss_term_options_n = KD_COUNT(kd_loss_term_options);

bool kd__is(const char *choice, const char *word) { return choice && !strcmp(choice, word); }

/* ---- schedules ---------------------------------------------------------------------------- */

double kd__schedule_at(const kd__schedule *s, double epoch)
{
    double x = s->epochs > 0 ? fmin(epoch / s->epochs, 1) : 1;
    switch (s->shape) {
    case KD__LINEAR: return s->from + (s->to - s->from) * x;
    case KD__COSINE: return s->to + (s->from - s->to) * 0.5 * (1 + cos(M_PI * x));
    case KD__WARMUP: return s->to * fmin((floor(epoch) + 1) / s->epochs, 1);
    default: return s->to;
    }
}

/* "4", "linear 1 4 20", "cosine 4 1 30", "warmup 1 20" */
static bool parse_schedule(const char *text, kd__schedule *s)
{
    double a, b, n;
    int end = 0;
    *s = (kd__schedule){.shape = KD__CONSTANT};
    if (sscanf(text, "%lf %n", &a, &end) == 1 && !text[end]) {
        s->from = s->to = a;
    } else if (sscanf(text, "linear %lf %lf %lf %n", &a, &b, &n, &end) == 3 && !text[end]) {
        *s = (kd__schedule){KD__LINEAR, a, b, n};
    } else if (sscanf(text, "cosine %lf %lf %lf %n", &a, &b, &n, &end) == 3 && !text[end]) {
        *s = (kd__schedule){KD__COSINE, a, b, n};
    } else if (sscanf(text, "warmup %lf %lf %n", &a, &n, &end) == 2 && !text[end]) {
        *s = (kd__schedule){KD__WARMUP, 0, a, n};
    } else {
        return false;
    }
    return isfinite(s->from) && isfinite(s->to) && isfinite(s->epochs) &&
           (s->shape == KD__CONSTANT || s->epochs > 0);
}

static kd_status read_schedule(const char *text, const char *key, double least, const char *where,
                               kd__schedule *s, kd_err *err)
{
    if (!parse_schedule(text, s))
        return kd_fail(
            err, KD_EUSAGE,
            "%s: %s: '%.60s', expected a number, 'linear FROM TO EPOCHS', 'cosine FROM TO EPOCHS' or "
            "'warmup VALUE EPOCHS'",
            where, key, text);
    double lo = s->shape == KD__WARMUP ? s->to : fmin(s->from, s->to);
    if (lo < least || (least > 0 && lo <= 0))
        return kd_fail(err, KD_EUSAGE, "%s: %s: %g, expected %s", where, key, lo,
                       least > 0 ? "more than 0 (usual: 1 to 8)" : "0 or more");
    return KD_OK;
}

/* ---- keys --------------------------------------------------------------------------------- */

static const struct {
    const char *name, *why;
} online[] = {
    {"gkd", "it samples from the student while it trains; on cached rows use gjsd, which is its loss"},
    {"minillm", "it samples from the student while it trains; on cached rows use reverse_kl"},
    {"opd", "it samples from the student while it trains; on cached rows use reverse_kl"},
};

static kd_status unknown_objective(const char *name, const char *where, kd_err *err)
{
    const char *names[64];
    size_t n = 0;
    for (size_t i = 0; i < KD_COUNT(online); i++)
        if (!strcmp(name, online[i].name))
            return kd_fail(err, KD_EUSAGE, "%s: %s works on-policy only: %s", where, name, online[i].why);
    while (n < KD_COUNT(names) && kd_loss_list(n)) {
        names[n] = kd_loss_list(n)->name;
        n++;
    }
    const char *near = kd_nearest(name, names, n);
    return kd_fail(err, KD_EUSAGE, "%s: no objective '%.40s'%s%s%s", where, name,
                   near ? " (did you mean '" : "; kd-train --list-losses has them", near ? near : "",
                   near ? "'?)" : "");
}

/* Splits "key=value,..." at *text; false at its end. key, value: cut out of the text. */
static bool next_pair(char **text, char **key, char **value)
{
    char *s = *text, *end = s + strcspn(s, ",");
    if (!*s) return false;
    *text = *end ? end + 1 : end;
    *end = '\0';
    *key = s;
    *value = strchr(s, '=');
    if (*value) *(*value)++ = '\0';
    return true;
}

/* Whether the objective's row names the key. Every term has the first ones; whoever goes row by row over a
 * teacher's classes can weigh rows, can learn from several. */
static bool has_key(const kd_objective *o, const char *key)
{
    static const char *const always[] = {"name", "preset", "weight", "teacher"};
    for (size_t i = 0; i < KD_COUNT(always); i++)
        if (!strcmp(key, always[i])) return true;
    if (!strcmp(key, "ensemble")) return o->needs & (KD_NEEDS_LOGITS | KD_NEEDS_SPARSE);
    if (!strcmp(key, "wrong"))
        return o->needs & (KD_NEEDS_LOGITS | KD_NEEDS_SPARSE) && kd__objective_find(o->name)->row;
    size_t len = strlen(key);
    for (const char *p = o->keys; p && *p; p += strcspn(p, ","), p += *p == ',')
        if (!strncmp(p, key, len) && (p[len] == '=' || p[len] == ',' || !p[len])) return true;
    return false;
}

static kd_status unknown_key(const kd_objective *o, const char *key, const char *where, kd_err *err)
{
    const char *names[64];
    size_t n = 0;
    for (size_t i = 0; i < kd_loss_term_options_n && n < KD_COUNT(names); i++)
        if (has_key(o, kd_loss_term_options[i].key)) names[n++] = kd_loss_term_options[i].key;
    const char *near = kd_nearest(key, names, n);
    if (near)
        return kd_fail(err, KD_EUSAGE, "%s: %s has no key '%.40s' (did you mean '%s'?)", where, o->name, key,
                       near);
    return kd_fail(err, KD_EUSAGE, "%s: %s has no key '%.40s'; it has: %s", where, o->name, key, o->keys);
}

/* Sets the keys of a text; those of a preset that the objective lacks cannot occur (a test sees to it). */
static kd_status set_keys(kd__term *t, const char *text, const char *where, kd_err *err)
{
    char *copy = kd_strdup(text), *at = copy, *key, *value;
    kd_status st = copy ? KD_OK : kd_fail(err, KD_ENOMEM, "out of memory");
    kd_err why = {0};
    while (!st && next_pair(&at, &key, &value)) {
        if (!value || !*value) {
            if (value && has_key(&t->o->pub, key)) continue; // "tap=": named in the row, no default
            st = kd_fail(err, KD_EUSAGE, "%s: '%.60s', expected KEY=VALUE", where, key);
        } else if (!has_key(&t->o->pub, key)) {
            st = unknown_key(&t->o->pub, key, where, err);
        } else if ((st = kd_config_flag(&t->config, key, value, &why))) {
            kd_fail(err, st, "%s (%s): %s", where, t->o->pub.name, why.msg + (why.msg[0] == '-' ? 2 : 0));
        }
    }
    free(copy);
    return st;
}

/* The value of a key in the text; "" if it is not there. */
static void value_of(const char *text, const char *key, char *buf, size_t len)
{
    size_t n = strlen(key);
    buf[0] = '\0';
    for (const char *p = text; *p; p += strcspn(p, ","), p += *p == ',')
        if (!strncmp(p, key, n) && p[n] == '=')
            snprintf(buf, len, "%.*s", (int)strcspn(p + n + 1, ","), p + n + 1);
}

static kd_status resolve(kd__term *t, const char *where, kd_err *err)
{
    kd_err why = {0};
    kd_status st = read_schedule(t->k.weight, "weight", 0, where, &t->weight_of, err);
    if (!st && t->k.temperature)
        st = read_schedule(t->k.temperature, "temperature", 1e-3, where, &t->temperature_of, err);
    if (st) return st;
    if (t->k.prefixes && (st = kd__prefixes_read(t, &why)))
        return kd_fail(err, st, "%s (%s): %s", where, t->o->pub.name, why.msg);
    t->weight = kd__schedule_at(&t->weight_of, 0);
    t->T = t->k.temperature ? kd__schedule_at(&t->temperature_of, 0) : 1;
    if (t->o->check && (st = t->o->check(t, &why)))
        return kd_fail(err, st, "%s (%s): %s", where, t->o->pub.name, why.msg);
    return KD_OK;
}

kd_status kd__term_init(kd__term *t, const char *text, const char *preset, const char *where, kd_err *err)
{
    char name[64], own[64], sets[256] = "";
    value_of(text, "name", name, sizeof(name));
    value_of(text, "preset", own, sizeof(own));
    if (!*name) return kd_fail(err, KD_EUSAGE, "%s: no name; for example {name: dkd, weight: 1}", where);
    if (!(t->o = kd__objective_find(name))) return unknown_objective(name, where, err);
    if (*own) preset = own;
    if (preset && !kd__preset_known(preset)) {
        kd_buf all = {0};
        for (size_t i = 0; kd_loss_preset(i, NULL); i++)
            kd_buf_printf(&all, "%s%s", i ? ", " : "", kd_loss_preset(i, NULL));
        kd_status unknown =
            kd_fail(err, KD_EUSAGE, "%s: no preset '%.40s', expected one of %s", where, preset, all.text);
        kd_buf_release(&all);
        return unknown;
    }
    if (preset) kd__preset_keys(preset, t->o->pub.name, sets, sizeof(sets));
    kd_status st = kd_config_add(&t->config, kd_loss_term_options, kd_loss_term_options_n, &t->k, err);
    t->k.wrong = 1;
    if (st || (st = set_keys(t, "weight=1", where, err)) || (st = set_keys(t, t->o->pub.keys, where, err)) ||
        (st = set_keys(t, sets, where, err)) || (st = set_keys(t, text, where, err)))
        return st;
    return resolve(t, where, err);
}

void kd__term_release(kd__term *t)
{
    kd_config_release(&t->config);
    free(t->thread_scratch);
}

/* ---- one key of one term ------------------------------------------------------------------ */

/* The nth term of an objective, from 1; terms->n: there is none. */
static size_t nth_term(const kd_strings *terms, const char *objective, long nth)
{
    char name[64];
    size_t i = 0;
    for (; i < terms->n; i++) {
        value_of(terms->v[i], "name", name, sizeof(name));
        if (!strcmp(name, objective) && !--nth) break;
    }
    return i;
}

static kd_status no_term(const kd_strings *terms, const char *label, kd_err *err)
{
    char names[KD_LOSS_TERMS][64];
    const char *list[KD_LOSS_TERMS];
    size_t n = kd_min_size(terms->n, KD_LOSS_TERMS);
    kd_buf all = {0};
    for (size_t i = 0; i < n; i++) {
        value_of(terms->v[i], "name", names[i], sizeof(names[i]));
        list[i] = names[i];
        kd_buf_printf(&all, "%s%s", i ? ", " : "", names[i]);
    }
    const char *near = kd_nearest(label, list, n);
    kd_status st = near ? kd_fail(err, KD_EUSAGE, "no term %.40s (did you mean %s?)", label, near)
                        : kd_fail(err, KD_EUSAGE, "no term %.40s; this loss has %s", label,
                                  all.text ? all.text : "none");
    kd_buf_release(&all);
    return st;
}

/* "name=kd,weight=2" with key=value in place of its own pair of that key, or behind the others. */
static void put_pair(kd_buf *b, const char *term, const char *key, const char *value)
{
    const size_t len = strlen(key);
    for (const char *p = term; *p; p += strcspn(p, ","), p += *p == ',')
        if (strncmp(p, key, len) || p[len] != '=') kd_buf_printf(b, "%.*s,", (int)strcspn(p, ","), p);
    kd_buf_printf(b, "%s=%s", key, value);
}

kd_status kd_loss_terms_set(char **out, const kd_strings *terms, const char *path, const char *value,
                            kd_err *err)
{
    char label[64], name[64];
    const char *dot = strrchr(path, '.'), *key = dot ? dot + 1 : path;
    kd_buf b = {0};
    *out = NULL;
    snprintf(label, sizeof(label), "%.*s", (int)(dot ? dot - path : 0), path);
    snprintf(name, sizeof(name), "%.*s", (int)strcspn(label, "."), label);
    const long nth = strchr(label, '.') ? strtol(strchr(label, '.') + 1, NULL, 10) : 1;
    const size_t at = nth_term(terms, name, nth);
    if (at == terms->n) return no_term(terms, label, err);
    const kd__objective *o = kd__objective_find(name);
    if (!o) return unknown_objective(name, "loss.terms", err);
    if (!has_key(&o->pub, key)) return unknown_key(&o->pub, key, "loss.terms", err);
    if (strpbrk(value, ",;"))
        return kd_fail(err, KD_EUSAGE, "'%.60s': a value of a term holds no ',' and no ';'", value);
    for (size_t i = 0; i < terms->n; i++) {
        if (i) kd_buf_puts(&b, ";");
        if (i == at)
            put_pair(&b, terms->v[i], key, value);
        else
            kd_buf_puts(&b, terms->v[i]);
    }
    if (b.failed) {
        kd_buf_release(&b);
        return kd_fail(err, KD_ENOMEM, "out of memory");
    }
    *out = b.text;
    return KD_OK;
}
