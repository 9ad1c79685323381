/* student.c - a student as its YAML describes it: name, model, loss, training, views.
 *
 * One file is one reproducible trial; a sweep is many files or many --set. The tables share one
 * config, so every key has its place (file and line, or --set) for later messages.
 */
#include "train_private.h"

#include <stdlib.h>
#include <string.h>

#define LOSS             "loss."
#define NAME_MAX_LETTERS 160 /* a file system takes 255; points of sweeps have long names */

const kd_option kd_student_options[] = {
    KD_OPT_STRING("Student", kd_student_spec, name, "name", "NAME", 0, NULL,
                  "names the folder of its runs [file name without .yaml]"),
    KD_OPT_STRING("Student", kd_student_spec, init_from, "init.from", "FOLDER", 0, NULL,
                  "begin with the weights of this model, in place of random ones"),
    KD_OPT_INTS(
        "Student", kd_student_spec, init_layers, "init.layers", "N,...", 0, NULL, 0, 999,
        "bert, llama: which of its layers, from 0, become the student's; a narrower student keeps the "
        "principal part of its hidden states, and its strongest heads and channels"),
    KD_OPT_INT(
        "Student", kd_student_spec, init_tokens, "init.tokens", "N", 0, "2048", 0, 1 << 16,
        "bert, llama, narrower: of so many training tokens hidden states are looked at for that; 0: its "
        "table alone"),
    KD_OPT_CHOICE("Student", kd_student_spec, init_tables, "init.tables", 0, "same", "same|words",
                  "bert: tables like its own; or words: of any width and size, a weighted mean of its words"),
    KD_OPT_CHOICE("Student", kd_student_spec, views_from, "views.from", 0, "none", "none|store|fresh",
                  "train on views of the rows: those that the teacher has seen, or others (labels only)"),
};
const size_t kd_student_options_n = KD_COUNT(kd_student_options);

kd_status kd__student_init(kd_student_spec *s, kd_err *err)
{
    kd_status st;
    memset(s, 0, sizeof(*s));
    if ((st = kd_config_add(&s->config, kd_student_options, kd_student_options_n, s, err)) ||
        (st = kd_config_add(&s->config, kd_model_options, kd_model_options_n, &s->model, err)) ||
        (st = kd_config_add(&s->config, kd_loss_options, kd_loss_options_n, &s->loss, err)) ||
        (st = kd_config_add(&s->config, kd_train_options, kd_train_options_n, &s->train, err)) ||
        (st = kd_config_add(&s->config, kd_view_options, kd_view_options_n, &s->views, err)))
        kd_config_release(&s->config);
    return st;
}

void kd_student_release(kd_student_spec *s)
{
    kd_config_release(&s->config);
    memset(s, 0, sizeof(*s));
}

/* flag: the option it stands behind, "--set" or "--sweep". */
static kd_status unknown_key(const kd_student_spec *s, const char *flag, const char *key, kd_err *err)
{
    const char *names[128];
    size_t n = 0;
    for (size_t t = 0; t < s->config.tables; t++)
        for (size_t i = 0; i < s->config.table[t].n && n < KD_COUNT(names); i++)
            if (s->config.table[t].rows[i].key) names[n++] = s->config.table[t].rows[i].key;
    const char *near = kd_nearest(key, names, n);
    if (near) return kd_fail(err, KD_EUSAGE, "%s %.80s: no such key (did you mean %s?)", flag, key, near);
    return kd_fail(err, KD_EUSAGE, "%s %.80s: no such key (kd-train --list-keys lists them)", flag, key);
}

/* loss.OBJECTIVE.KEY: one key of one term. */
static kd_status set_term(kd_student_spec *s, const char *flag, const char *key, const char *value,
                          kd_err *err)
{
    char *text = NULL, plain[80];
    snprintf(plain, sizeof(plain), "loss%.70s", strrchr(key, '.'));
    if (!s->loss.terms.n)
        return kd_config_find(&s->config, plain)
                   ? kd_fail(err, KD_EUSAGE, "%s %.80s: this loss is no list of terms (did you mean %s?)",
                             flag, key, plain)
                   : unknown_key(s, flag, key, err);
    kd_err why = {0};
    kd_status st = kd_loss_terms_set(&text, &s->loss.terms, key + strlen(LOSS), value, &why);
    if (st) return kd_fail(err, st, "%s %.80s: %s", flag, key, why.msg);
    st = kd_config_flag(&s->config, LOSS "terms", "", err); // what is given twice is added to the list
    if (!st) st = kd_config_flag(&s->config, LOSS "terms", text, err);
    free(text);
    return st;
}

/* Keys of the short form, which a list of terms takes the place of. */
static bool is_short(const char *key)
{
    static const char *const both[] = {LOSS "terms", LOSS "teacher", LOSS "preset"};
    for (size_t i = 0; i < KD_COUNT(both); i++)
        if (!strcmp(key, both[i])) return false;
    return !strncmp(key, LOSS, strlen(LOSS));
}

static kd_status set_key(kd_student_spec *s, const char *flag, const char *key, const char *value,
                         kd_err *err)
{
    if (!strncmp(key, LOSS, strlen(LOSS)) && strchr(key + strlen(LOSS), '.'))
        return set_term(s, flag, key, value, err);
    if (!kd_config_find(&s->config, key)) return unknown_key(s, flag, key, err);
    if (s->loss.terms.n && is_short(key))
        return kd_fail(err, KD_EUSAGE,
                       "%s %.80s: this loss is a list of terms; name a key of one of them, as in "
                       "loss.kd.temperature",
                       flag, key);
    return kd_config_flag(&s->config, key, value, err);
}

static kd_status apply_override(kd_student_spec *s, const char *flag, const char *pair, kd_err *err)
{
    const char *eq = strchr(pair, '=');
    if (!eq || eq == pair)
        return kd_fail(err, KD_EUSAGE, "%s %.80s: expected KEY=VALUE, for example train.epochs=1", flag,
                       pair);
    char *key = kd_sprintf("%.*s", (int)(eq - pair), pair);
    if (!key) return kd_fail(err, KD_ENOMEM, "out of memory");
    kd_status st = set_key(s, flag, key, eq + 1, err);
    free(key);
    return st;
}

/* "runs/cnn-25k.yaml" -> "cnn-25k" */
static char *name_of_file(const char *path)
{
    char *name = kd_strdup(kd_path_base(path)), *dot = name ? strrchr(name, '.') : NULL;
    if (dot && dot != name && (!strcmp(dot, ".yaml") || !strcmp(dot, ".yml"))) *dot = '\0';
    return name;
}

/* The name becomes a folder and a cell of tables; '@' parts a student from its point of a sweep. */
static kd_status check_name(const kd_student_spec *s, const char *path, kd_err *err)
{
    const char *n = s->name;
    size_t len = strlen(n);
    if (!len || len > NAME_MAX_LETTERS || strchr(".-@=", n[0]) || strspn(n, KD__NAME_LETTERS "@") != len)
        return kd_fail(
            err, KD_EUSAGE,
            "%s: name '%.80s' cannot name a folder: 1 to %d letters, digits, '.', '_', '-', '=' or '@', "
            "not beginning with '.', '-', '=' or '@'",
            path, n, NAME_MAX_LETTERS);
    return KD_OK;
}

/* The file's name and behind it the point's. */
static kd_status set_name(kd_student_spec *s, const char *path, const char *suffix, kd_err *err)
{
    char *base = s->name ? kd_strdup(s->name) : name_of_file(path);
    char *name = base ? kd_sprintf("%s%s", base, suffix ? suffix : "") : NULL;
    kd_status st =
        name ? kd_config_flag(&s->config, "name", name, err) : kd_fail(err, KD_ENOMEM, "out of memory");
    free(base);
    free(name);
    return st ? st : check_name(s, path, err);
}

kd_status kd__student_load(kd_student_spec *s, const char *path, const kd_strings *overrides,
                           const kd_strings *point, const char *suffix, kd_err *err)
{
    kd_status st = kd__student_init(s, err);
    if (st) return st;
    st = kd_config_yaml(&s->config, path, err);
    for (size_t i = 0; overrides && i < overrides->n && !st; i++)
        st = apply_override(s, "--set", overrides->v[i], err);
    for (size_t i = 0; point && i < point->n && !st; i++) st = apply_override(s, "--sweep", point->v[i], err);
    if (!st) st = set_name(s, path, suffix, err);
    if (st) kd_student_release(s);
    return st;
}

kd_status kd_student_load(kd_student_spec *s, const char *path, const kd_strings *overrides, kd_err *err)
{
    return kd__student_load(s, path, overrides, NULL, NULL, err);
}

kd_status kd__student_copy(kd_student_spec *out, const kd_student_spec *s, kd_err *err)
{
    const char *path = s->config.path ? s->config.path : "student";
    json_t *all = kd_config_json(&s->config);
    kd_status st = all ? kd__student_init(out, err) : kd_fail(err, KD_ENOMEM, "out of memory");
    if (!st && (st = kd_config_from_json(&out->config, all, path, err))) kd_student_release(out);
    json_decref(all);
    return st;
}
