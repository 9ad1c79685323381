/* sources.c - which columns of the store each term of a student's loss reads, and whether they serve it.
 *
 * A term says what it needs (kd/loss.h) and may name a teacher, several teachers, or a feature; what it
 * leaves open is taken from the store where that has only one answer. What a column's encoding keeps decides
 * which objectives it serves (kd/codec.h). Whatever does not fit is refused here, before anything is computed
 * or written, in one sentence that ends with what to do.
 *
 * Sampled targets (head-tail, sample) are the teacher's softmax at the temperature of the dump, on average.
 * kd and kd_ce, whose gradient is linear in the teacher, take them as a whole row of logits
 * (targets.c), and sparse_kl with `sparse: sampled` as they are.
 */
#include "train_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Logits over the labels' classes, of rows or of views. */
static bool is_of_classes(const kd_column *c) { return c->role == KD_ROLE_LOGITS || c->role == KD_ROLE_VIEW; }
static bool is_logits(const kd_column *c) { return c->role == KD_ROLE_LOGITS || c->role == KD_ROLE_SCORE; }

static kd_status need_slot(kd_trainer *t, int column, int *slot, kd_err *err)
{
    *slot = kd__trainer_slot(t, column, err);
    return *slot < 0 ? KD_ELIMIT : KD_OK;
}

/* ---- what an encoding serves -------------------------------------------------------------- */

/* The temperature that a codec's parameters name. */
static double temperature_of(const kd_column *z)
{
    const json_t *codec = json_object_get(z->params, "codec");
    return json_number_value(json_object_get(codec, "temperature"));
}

/* Where in the YAML a key of a term stands, for messages. */
static const char *where_of(const kd__run *r, const char *key, char *buf, size_t size)
{
    return kd_config_where(&r->spec.config, r->spec.loss.terms.n ? "loss.terms" : key, buf, size);
}

/* Targets that are the softmax at one temperature only: the term must have that temperature, always. */
static kd_status check_temperature(const kd_trainer *t, kd__run *r, int i, const kd_column *z, kd_err *err)
{
    char serves[160], where[300], key[80];
    double have = temperature_of(z);
    for (int end = 0; end < 2; end++) {
        kd_loss_at(r->loss, end ? 1e12 : 0);
        kd_loss_term term = kd_loss_term_at(r->loss, i);
        bool sparse = term.needs & KD_NEEDS_SPARSE;
        double want = sparse && !end ? term.dump_temperature : term.temperature;
        kd_loss_at(r->loss, 0);
        if (want == have) continue;
        snprintf(key, sizeof(key), "%s of %s", sparse && !end ? "dump_temperature" : "temperature",
                 term.label);
        return kd_fail(
            err, KD_EMISMATCH,
            "%s: column %s (%s) serves %s, which is %g; %s is %g: set %g in %s, or dump again with "
            "kd-dump --encoding %s:temperature=%g",
            kd_store_path(t->store), z->name, z->encoding,
            kd_serves_text(KD_SERVES_EXPECTED, serves, sizeof(serves)), have,
            r->spec.loss.terms.n ? key : "loss.temperature", want, have,
            where_of(r, "loss.temperature", where, sizeof(where)), z->encoding, want);
    }
    return KD_OK;
}

static bool is_forward(const kd_loss_term *term)
{
    return !strcmp(term->objective->name, "kd") || !strcmp(term->objective->name, "kd_ce");
}

static kd_status not_served(const kd_trainer *t, const kd_loss_term *term, const kd_column *z,
                            const char *advice, kd_err *err)
{
    const kd_codec_info *codec = kd_codec_find(z->encoding);
    char has[160], wants[160];
    return kd_fail(err, KD_EUNSUPPORTED, "%s: column %s (%s) serves %s; %s needs %s: %s",
                   kd_store_path(t->store), z->name, z->encoding,
                   codec ? kd_serves_text(codec->serves, has, sizeof(has)) : "every class", term->label,
                   kd_serves_text(term->serves, wants, sizeof(wants)), advice);
}

static kd_status check_sparse(const kd_trainer *t, kd__run *r, int i, const kd_column *z, kd_err *err)
{
    kd_loss_term term = kd_loss_term_at(r->loss, i);
    const kd_codec_info *codec = kd_codec_find(z->encoding);
    if (!codec || !codec->sparse)
        return not_served(t, &term, z,
                          "use kd, gjsd or tvd, or dump again with kd-dump --encoding topk:temperatures=1+4",
                          err);
    if (term.serves == KD_LOSS_EXPECTED && codec->serves & KD_SERVES_EXPECTED)
        return check_temperature(t, r, i, z, err);
    if (!(codec->serves & term.serves))
        return not_served(t, &term, z,
                          term.serves == KD_LOSS_EXPECTED
                              ? "use another convention (sparse: bucket), or dump again with kd-dump "
                                "--encoding sample:n=50"
                              : "set sparse: sampled, or dump again with kd-dump --encoding topk",
                          err);
    if (term.dump_temperature == 1) return KD_OK;
    return kd_fail(err, KD_EMISMATCH,
                   "%s: column %s (%s) keeps log-probabilities at temperature 1; dump_temperature of %s is "
                   "%g: remove it",
                   kd_store_path(t->store), z->name, z->encoding, term.label, term.dump_temperature);
}

static kd_status check_dense(const kd_trainer *t, kd__run *r, int i, const kd_column *z, kd_err *err)
{
    kd_loss_term term = kd_loss_term_at(r->loss, i);
    const kd_codec_info *codec = kd_codec_find(z->encoding);
    if (!codec || (codec->serves & term.serves) == term.serves) return KD_OK;
    if (codec->serves & KD_SERVES_EXPECTED && is_forward(&term) &&
        (r->source[i].n == 1 || r->source[i].how == KD__TURNS))
        return check_temperature(t, r, i, z, err);
    return not_served(t, &term, z,
                      term.serves & KD_LOSS_VALUES ? "dump again with kd-dump --encoding int8"
                      : codec->serves & KD_SERVES_HEAD
                          ? "use sparse_kl, or dump again with kd-dump --encoding log8"
                          : "dump again with kd-dump --encoding log8",
                      err);
}

/* ---- logits ------------------------------------------------------------------------------- */

/* A teacher's logits, or its scores; -1: none. */
static int logits_of(const kd_store *s, const char *teacher)
{
    int c = kd_store_find_role(s, KD_ROLE_LOGITS, teacher);
    return c >= 0 ? c : kd_store_find_role(s, KD_ROLE_SCORE, teacher);
}

/* Names of the teachers that have logits: "a, b". */
static size_t teacher_names(const kd_store *s, kd_buf *names)
{
    size_t n = 0;
    for (size_t i = 0; i < kd_store_columns(s); i++) {
        const kd_column *c = kd_store_column(s, i);
        if (is_logits(c) && logits_of(s, c->teacher) == (int)i)
            kd_buf_printf(names, "%s%s", n++ ? ", " : "", c->teacher);
    }
    return n;
}

/* want: a teacher's name; "": the only one. */
static kd_status find_logits(const kd_trainer *t, const char *want, int *column, kd_err *err)
{
    const char *store = kd_store_path(t->store);
    kd_buf names = {0};
    size_t n = teacher_names(t->store, &names);
    kd_status st = KD_OK;
    *column = logits_of(t->store, *want ? want : NULL);
    if (!n)
        st = kd_fail(err, KD_ENOTFOUND, "no teacher in %s; add one: kd-dump --teacher FOLDER --into %s",
                     store, store);
    else if (*want && *column < 0)
        st = kd_fail(err, KD_ENOTFOUND,
                     "no teacher %s in %s, it has: %s; set loss.teacher, or add it: kd-dump --teacher FOLDER "
                     "--into %s",
                     want, store, names.text ? names.text : "?", store);
    else if (!*want && n > 1)
        st = kd_fail(err, KD_EUSAGE, "%s has several teachers (%s); name one: loss.teacher", store,
                     names.text ? names.text : "?");
    kd_buf_release(&names);
    return st;
}

/* Takes "NAME" or "NAME*WEIGHT" from a list that blanks separate; false at its end. */
static bool next_teacher(const char **text, char name[KD_STORE_NAME_MAX], double *weight)
{
    char item[KD_STORE_NAME_MAX + 32] = "", *end = NULL;
    *text += strspn(*text, " ");
    size_t len = strcspn(*text, " ");
    if (!len) return false;
    snprintf(item, sizeof(item), "%.*s", (int)kd_min_size(len, sizeof(item) - 1), *text);
    *text += len;
    char *star = strchr(item, '*');
    *weight = star ? strtod(star + 1, &end) : 1;
    if (star && (*end || end == star + 1)) *weight = NAN;
    snprintf(name, KD_STORE_NAME_MAX, "%.*s", star ? (int)(star - item) : (int)sizeof(item), item);
    return true;
}

static kd_status check_logits(const kd_trainer *t, kd__run *r, int i, const kd_column *z, kd_err *err)
{
    kd_loss_term term = kd_loss_term_at(r->loss, i);
    const kd_codec_info *codec = kd_codec_find(z->encoding);
    const bool shaped = r->language ? z->ndims == 2 && z->dims[0] < 0 && z->role == KD_ROLE_LOGITS
                                    : z->ndims == (z->role == KD_ROLE_VIEW ? 2 : 1) && z->dims[0] >= 1;
    if (!shaped || !kd_dtype_is_float(z->dtype) || (!codec && strcmp(z->encoding, "dense")))
        return kd_fail(err, KD_EUNSUPPORTED, "%s: column %s (%s of %s) is not one vector of logits a %s",
                       kd_store_path(t->store), z->name, z->encoding, kd_dtype_name(z->dtype),
                       r->language ? "position" : "row");
    return term.needs & KD_NEEDS_SPARSE ? check_sparse(t, r, i, z, err) : check_dense(t, r, i, z, err);
}

/* What validation rows, which are shown as they are, are compared with in place of views: the teacher's plain
 * logits, unless view 0 is the row. */
static kd_status find_plain(kd__run *r, kd_trainer *t, int i, int slot, kd_err *err)
{
    const kd_column *c = kd__trainer_column(t, slot);
    const char *store = kd_store_path(t->store);
    kd_status st;
    t->slot_views[slot] = r->spec.views;
    t->slot_plain[slot] = -1;
    if (r->spec.views.identity || !kd_store_split_rows(t->store, KD_VALID)) return KD_OK;
    const int plain = kd_store_find_role(t->store, KD_ROLE_LOGITS, c->teacher);
    if (plain < 0)
        return kd_fail(err, KD_EMISMATCH,
                       "%s: column %s has no view that is the row as it is, and teacher %s no logits of the "
                       "rows, as validation needs; add them: kd-dump --teacher FOLDER --into %s --name %s",
                       store, c->name, c->teacher, store, c->teacher);
    const kd_column *z = kd_store_column(t->store, (size_t)plain);
    const kd_codec_info *codec = kd_codec_find(z->encoding);
    if ((st = check_logits(t, r, i, z, err)) || (st = need_slot(t, plain, &t->slot_plain[slot], err)))
        return st;
    if (kd_column_width(z) != kd_column_width(c))
        return kd_fail(err, KD_EMISMATCH, "%s: columns %s and %s have %zu and %zu classes", store, z->name,
                       c->name, kd_column_width(z), kd_column_width(c));
    if (codec && codec->sparse) t->slot_scattered[t->slot_plain[slot]] = true;
    return KD_OK;
}

static const char *const joined[] = {[KD__MEAN_LOGITS] = "mean of logits",
                                     [KD__MEAN_PROBABILITIES] = "mean of probabilities",
                                     [KD__BEST] = "best of",
                                     [KD__TURNS] = "in turns"};

/* What several teachers come to; whether this term can have that. */
static kd_status set_ensemble(const kd__run *r, const kd_loss_term *term, kd__source *s, kd_err *err)
{
    s->how = !strcmp(term->ensemble, "best")            ? KD__BEST
             : !strcmp(term->ensemble, "probabilities") ? KD__MEAN_PROBABILITIES
             : !strcmp(term->ensemble, "turns")         ? KD__TURNS
                                                        : KD__MEAN_LOGITS;
    if (s->n > 1 && s->how != KD__TURNS && (term->needs & KD_NEEDS_SPARSE || r->language))
        return kd_fail(err, KD_EUSAGE,
                       "%s: %s cannot take the %s of several teachers ('%.80s'): %s; give each its own term, "
                       "or set ensemble: turns",
                       r->spec.name, term->label, joined[s->how], term->teacher,
                       r->language ? "that is not there for language models" : "its targets are sparse");
    for (int k = 1; k < s->n && s->how == KD__TURNS; k++)
        if (s->share[k] != s->share[0])
            return kd_fail(err, KD_EUSAGE,
                           "%s: teacher of %s: '%.80s': in turns all weigh the same; remove the weights",
                           r->spec.name, term->label, term->teacher);
    return KD_OK;
}

/* The teachers of term i and their shares of it. */
static kd_status find_teachers(kd__run *r, kd_trainer *t, int i, kd_err *err)
{
    kd_loss_term term = kd_loss_term_at(r->loss, i);
    kd__source *s = &r->source[i];
    const char *list = term.teacher ? term.teacher : "";
    char name[KD_STORE_NAME_MAX] = "";
    double weight = 1, sum = 0;
    int column;
    kd_status st;
    while (next_teacher(&list, name, &weight) || !s->n) {
        if (s->n == KD__TEACHERS)
            return kd_fail(err, KD_ELIMIT, "%s: %s learns from more than %d teachers", r->spec.name,
                           term.label, KD__TEACHERS);
        if (!(weight >= 0) || !isfinite(weight))
            return kd_fail(err, KD_EUSAGE, "%s: teacher of %s: '%.80s', expected NAME or NAME*WEIGHT",
                           r->spec.name, term.label, term.teacher);
        st = kd__run_has_stored_views(r) ? kd__views_find(r, t, name, &column, err)
                                         : find_logits(t, name, &column, err);
        if (st || (st = need_slot(t, column, &s->slot[s->n], err))) return st;
        for (int k = 0; k < s->n; k++)
            if (s->slot[k] == s->slot[s->n])
                return kd_fail(err, KD_EUSAGE, "%s: teacher of %s: %s is named twice", r->spec.name,
                               term.label, name);
        s->share[s->n++] = weight;
        sum += weight;
    }
    if (!(sum > 0))
        return kd_fail(err, KD_EUSAGE, "%s: the weights of the teachers of %s sum to zero: '%.80s'",
                       r->spec.name, term.label, term.teacher);
    if ((st = set_ensemble(r, &term, s, err))) return st;
    for (int k = 0; k < s->n; k++) {
        const kd_column *z = kd__trainer_column(t, s->slot[k]);
        const kd_codec_info *codec = kd_codec_find(z->encoding);
        s->share[k] /= sum;
        if ((st = check_logits(t, r, i, z, err))) return st;
        if (codec && codec->sparse && !(term.needs & KD_NEEDS_SPARSE) && !r->language)
            t->slot_scattered[s->slot[k]] = true;
        if (z->role == KD_ROLE_VIEW && (st = find_plain(r, t, i, s->slot[k], err))) return st;
    }
    return KD_OK;
}

/* ---- features ----------------------------------------------------------------------------- */

/* "relu1" of "big/feat.relu1". */
static const char *feature_name(const kd_column *c)
{
    const char *at = strstr(c->name, "/feat.");
    return at ? at + 6 : c->name;
}

static kd_status no_feature(const kd_trainer *t, const kd_loss_term *term, const char *names, kd_err *err)
{
    const char *store = kd_store_path(t->store), *node = term->feature ? term->feature : "NODE",
               *form = !strcmp(term->objective->name, "fitnet") ? ":flat"
                       : !strcmp(term->objective->name, "at")   ? ":attention"
                                                                : "";
    return kd_fail(err, KD_ENOTFOUND,
                   "%s: %s needs a feature%s%s%s%s, found %s; add it: kd-dump --teacher FOLDER --into %s "
                   "--no-logits --tap %s%s",
                   store, term->label, term->feature ? " " : "", term->feature ? term->feature : "",
                   term->teacher ? " of " : "", term->teacher ? term->teacher : "", names ? names : "none",
                   store, node, form);
}

/* The column that the keys feature and teacher name; without feature the only one, or that of the tap's name.
 */
static kd_status find_feature(kd__run *r, kd_trainer *t, int i, kd_err *err)
{
    kd_loss_term term = kd_loss_term_at(r->loss, i);
    kd_buf names = {0}, fit = {0};
    int found = -1, same = -1, n = 0, named = 0;
    kd_status st = KD_OK;
    for (size_t k = 0; k < kd_store_columns(t->store); k++) {
        const kd_column *c = kd_store_column(t->store, k);
        if (c->role != KD_ROLE_FEATURE || (term.teacher && strcmp(term.teacher, c->teacher))) continue;
        kd_buf_printf(&names, "%s%s", names.len ? ", " : "", c->name);
        if (term.feature && strcmp(term.feature, feature_name(c))) continue;
        kd_buf_printf(&fit, "%s%s", n++ ? ", " : "", c->name);
        found = (int)k;
        if (term.tap && !strcmp(term.tap, feature_name(c))) same = (int)k, named++;
    }
    if (n > 1 && named == 1) found = same, n = 1;
    if (!n)
        st = no_feature(t, &term, names.text, err);
    else if (n > 1)
        st = kd_fail(err, KD_EUSAGE, "%s: %s may mean several features (%s); name one: feature, teacher",
                     kd_store_path(t->store), term.label, fit.text ? fit.text : "?");
    kd_buf_release(&names);
    kd_buf_release(&fit);
    if (st) return st;
    const kd_column *c = kd_store_column(t->store, (size_t)found);
    const kd_codec_info *codec = kd_codec_find(c->encoding);
    if (codec && (codec->sparse || !(codec->serves & KD_SERVES_VALUES)))
        return not_served(t, &term, c, "dump again with kd-dump --feature-encoding int8", err);
    for (int d = 0; d < c->ndims; d++)
        if (c->dims[d] < 1)
            return kd_fail(err, KD_EUNSUPPORTED,
                           "%s: column %s has no fixed shape; %s compares rows of one "
                           "shape",
                           kd_store_path(t->store), c->name, term.label);
    if (!kd_dtype_is_float(c->dtype))
        return kd_fail(err, KD_EUNSUPPORTED, "%s: column %s is %s; features are floats",
                       kd_store_path(t->store), c->name, kd_dtype_name(c->dtype));
    r->source[i].n = 1;
    if ((st = need_slot(t, found, &r->source[i].slot[0], err))) return st;
    t->slot_judged[r->source[i].slot[0]] |= kd__term_judges(&term);
    return KD_OK;
}

/* ---- embeddings of texts ------------------------------------------------------------------ */

/* Whether a column holds what a teacher made of the texts of another: it says so, or there is only one. */
static bool is_of_text(const kd_trainer *t, const kd_column *c, const kd_column *text)
{
    const char *input = json_string_value(json_object_get(c->params, "input"));
    return input ? !strcmp(input, text->name) : t->ntexts == 1;
}

/* "embedding" of "minilm/embedding.query", where the column says that query is its input. */
static bool is_named(const kd_column *c, const char *feature)
{
    const char *name = strstr(c->name, "/feat.") ? feature_name(c) : c->name + strlen(c->teacher) + 1;
    const size_t n = strlen(feature);
    return !strncmp(name, feature, n) && (!name[n] || name[n] == '.');
}

/* The column that a teacher made of one column of texts, a vector for each text. */
static kd_status find_embedding(const kd__run *r, kd_trainer *t, const kd_loss_term *term, int k, int *slot,
                                kd_err *err)
{
    const kd_column *text = kd__trainer_column(t, t->text[k]);
    const char *store = kd_store_path(t->store);
    kd_buf names = {0};
    int found = -1, n = 0;
    kd_status st = KD_OK;
    for (size_t i = 0; i < kd_store_columns(t->store); i++) {
        const kd_column *c = kd_store_column(t->store, i);
        if (c->role != KD_ROLE_FEATURE || !is_of_text(t, c, text)) continue;
        if ((term->teacher && strcmp(term->teacher, c->teacher)) ||
            (term->feature && !is_named(c, term->feature)))
            continue;
        kd_buf_printf(&names, "%s%s", n++ ? ", " : "", c->name);
        found = (int)i;
    }
    if (!n)
        st = kd_fail(err, KD_ENOTFOUND,
                     "%s: %s of %s needs a teacher's embeddings of column %s, found none; add them: "
                     "kd-dump --teacher FOLDER --into %s",
                     store, term->label, r->spec.name, text->name, store);
    else if (n > 1)
        st =
            kd_fail(err, KD_EUSAGE, "%s: %s may mean several features of %s (%s); name one: teacher, feature",
                    store, term->label, text->name, names.text ? names.text : "?");
    kd_buf_release(&names);
    return st ? st : need_slot(t, found, slot, err);
}

static kd_status find_embeddings(kd__run *r, kd_trainer *t, int i, kd_err *err)
{
    const kd_loss_term term = kd_loss_term_at(r->loss, i);
    kd__source *s = &r->source[i];
    for (int k = 0; k < t->ntexts; k++) {
        kd_status st = find_embedding(r, t, &term, k, &s->slot[k], err);
        if (st) return st;
        const kd_column *c = kd__trainer_column(t, s->slot[k]), *first = kd__trainer_column(t, s->slot[0]);
        const kd_codec_info *codec = kd_codec_find(c->encoding);
        if (codec && (codec->sparse || !(codec->serves & KD_SERVES_VALUES)))
            return not_served(t, &term, c, "dump again with kd-dump --feature-encoding int8", err);
        if (c->ndims < 1 || c->dims[0] < 1 || !kd_dtype_is_float(c->dtype) ||
            kd_column_width(c) != kd_column_width(first))
            return kd_fail(err, KD_EUNSUPPORTED,
                           "%s: column %s is not one vector of %zu floats for each text",
                           kd_store_path(t->store), c->name, kd_column_width(first));
        t->slot_judged[s->slot[k]] |= kd__term_judges(&term);
        s->each[k] = kd_column_each(c);
        s->n = k + 1;
    }
    return KD_OK;
}

/* ---- all of a student --------------------------------------------------------------------- */

static void note_teacher(kd__run *r, const kd_trainer *t, int slot)
{
    for (int k = 0; k < r->nteachers; k++)
        if (r->teacher[k] == slot) return;
    r->teacher_name[r->nteachers] = kd__trainer_column(t, slot)->teacher;
    r->teacher[r->nteachers++] = slot;
}

kd_status kd__sources_find(kd__run *r, kd_trainer *t, kd_err *err)
{
    for (int i = 0; i < kd_loss_count(r->loss); i++) {
        kd_loss_term term = kd_loss_term_at(r->loss, i);
        kd__source *s = &r->source[i];
        kd_status st = KD_OK;
        s->tap = s->nodes.student = s->nodes.teacher = s->nodes.teacher_out = -1;
        if (term.needs & KD_NEEDS_FEATURES)
            st = r->texts ? find_embeddings(r, t, i, err) : find_feature(r, t, i, err);
        else if (term.needs & (KD_NEEDS_LOGITS | KD_NEEDS_SPARSE))
            st = find_teachers(r, t, i, err);
        if (st) return st;
        for (int k = 0; k < s->n; k++)
            if (is_of_classes(kd__trainer_column(t, s->slot[k]))) note_teacher(r, t, s->slot[k]);
    }
    return KD_OK;
}

kd_status kd__sources_check(const kd__run *r, const kd_trainer *t, kd_err *err)
{
    for (int i = 0; i < kd_loss_count(r->loss); i++) {
        kd_loss_term term = kd_loss_term_at(r->loss, i);
        for (int k = 0; k < r->source[i].n && !(term.needs & KD_NEEDS_FEATURES); k++) {
            const kd_column *z = kd__trainer_column(t, r->source[i].slot[k]);
            int64_t want = r->classes - term.differences;
            const int64_t width = (int64_t)kd_column_width(z);
            if (width != want)
                return kd_fail(
                    err, KD_EMISMATCH,
                    "%s: column %s has %lld numbers a row, %s of a student with %lld classes reads "
                    "%lld; dump another teacher: kd-dump --teacher FOLDER --into %s",
                    kd_store_path(t->store), z->name, (long long)width, term.label, (long long)r->classes,
                    (long long)want, kd_store_path(t->store));
        }
    }
    return KD_OK;
}

/* ---- said ---------------------------------------------------------------------------------- */

char *kd__sources_text(const kd__run *r, const kd_trainer *t)
{
    kd_buf b = {0};
    char *formula = kd_loss_formula(r->loss);
    kd_buf_puts(&b, formula ? formula : "?");
    free(formula);
    for (int i = 0; i < kd_loss_count(r->loss); i++) {
        kd_loss_term term = kd_loss_term_at(r->loss, i);
        const kd__source *s = &r->source[i];
        bool feature = term.needs & KD_NEEDS_FEATURES;
        if (!feature && s->n < 2) continue;
        kd_buf_printf(&b, "; %s: ", term.label);
        if (feature)
            kd_buf_printf(&b, "%s against %s", term.tap ? term.tap : kd__trainer_column(t, s->slot[0])->tap,
                          kd__trainer_column(t, s->slot[0])->name);
        else
            kd_buf_printf(&b, "%s", joined[s->how]);
        if (!kd__term_judges(&term))
            kd_buf_puts(&b, ", in training only: what it compares with are training rows");
        for (int k = 0; k < s->n && !feature; k++)
            kd_buf_printf(&b, "%s%.3g %s", k ? " + " : " ", s->share[k],
                          kd__trainer_column(t, s->slot[k])->name);
    }
    if (b.failed) kd_buf_release(&b);
    return b.text;
}
