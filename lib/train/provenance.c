/* provenance.c - what a run is, said twice: as a contract before it, as provenance behind it.
 *
 * The contract holds everything that decides the bits of the weights: the resolved configuration,
 * seed, role, the number of rows and which are left out, the columns read with the root hash of their segment
 * (not the root of the whole store, which changes when a second teacher is added), and the kernels in use. It
 * goes into every checkpoint; resuming compares it field by field and names the first difference. A finished
 * model is finished on any machine: there the kernels are not compared.
 *
 * provenance.json is written last of all files, so its presence in FOLDER.part says that only the
 * renaming is missing.
 */
#include "train_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define JSON_LIMIT (16u << 20)

/* ---- contract ----------------------------------------------------------------------------- */

static const char *segment_root(const kd_store *s, const char *segment)
{
    const json_t *entry;
    size_t i;
    json_array_foreach(json_object_get(kd_store_manifest(s), "segments"), i, entry)
    {
        const char *name = json_string_value(json_object_get(entry, "name"));
        if (name && !strcmp(name, segment)) return json_string_value(json_object_get(entry, "root"));
    }
    return kd_store_root(s);
}

static void add_column(json_t *o, const kd_trainer *t, int slot)
{
    if (slot < 0) return;
    const kd_column *c = kd__trainer_column(t, slot);
    json_object_set_new(o, c->name, json_string(segment_root(t->store, c->segment)));
}

static json_t *columns_json(const kd_trainer *t, const kd__run *r)
{
    json_t *o = json_object();
    add_column(o, t, r->input);
    add_column(o, t, r->label);
    for (int i = 0; i < KD_LOSS_TERMS; i++)
        for (int k = 0; k < r->source[i].n; k++) add_column(o, t, r->source[i].slot[k]);
    return o;
}

/* Which rows are left out, as a hash; absent where all are used. */
static int add_drop(json_t *o, const kd_trainer *t)
{
    char hash[17];
    if (!t->p.drop) return 0;
    snprintf(hash, sizeof(hash), "%016llx",
             (unsigned long long)kd_hash64(t->p.drop, (kd_store_rows(t->store) + 7) / 8));
    return json_object_set_new(o, "drop", json_string(hash));
}

json_t *kd__contract(const kd_trainer *t, const kd__run *r)
{
    uint64_t rows = kd_store_split_rows(t->store, KD_TRAIN);
    if (t->p.rows && t->p.rows < rows) rows = t->p.rows;
    json_t *o = json_pack("{s:s, s:I, s:o, s:I, s:I, s:o, s:s, s:s, s:s}", "role", r->role, "seed",
                          (json_int_t)r->seed, "config", kd_config_json(&r->spec.config), "rows",
                          (json_int_t)rows, "window_rows", (json_int_t)t->p.window_rows, "columns",
                          columns_json(t, r), "isa", kd_isa_name(kd_cpu_isa()), "kernels", kd_nn_backend(),
                          "products", kd_nn_products(kd__run_precision(r)));
    if (o && add_drop(o, t)) json_decref(o), o = NULL;
    return o;
}

/* Finds the first leaf that differs; path receives its dotted name. */
static bool differs(const json_t *a, const json_t *b, kd_buf *path, const json_t **va, const json_t **vb)
{
    if (!json_is_object(a) || !json_is_object(b)) {
        *va = a, *vb = b;
        return !(a && b && json_equal((json_t *)a, (json_t *)b));
    }
    size_t len = path->len;
    for (int pass = 0; pass < 2; pass++) { // then the keys that only b has
        const char *key;
        json_t *v;
        json_object_foreach((json_t *)(pass ? b : a), key, v)
        {
            if (pass && json_object_get(a, key)) continue;
            kd_buf_printf(path, "%s%s", len ? "." : "", key);
            if (differs(json_object_get(a, key), json_object_get(b, key), path, va, vb)) return true;
            path->len = len;
        }
    }
    return false;
}

static char *shown(const json_t *v)
{
    char *s =
        v ? json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(9)) : kd_strdup("nothing");
    if (s && strlen(s) > 80) memcpy(s + 77, "...", 4);
    return s;
}

/* A configuration that an older build wrote has no keys that came later: each has its default. What cannot be
 * read stays as it is, and differs. */
static kd_status add_defaults(json_t *contract, kd_err *err)
{
    kd_student_spec s;
    kd_err no;
    kd_status st = kd__student_init(&s, err);
    if (st) return st;
    if (!kd_config_from_json(&s.config, json_object_get(contract, "config"), "contract", &no) &&
        json_object_set_new(contract, "config", kd_config_json(&s.config)))
        st = kd_fail(err, KD_ENOMEM, "out of memory");
    kd_student_release(&s);
    return st;
}

kd_status kd__contract_check(const json_t *there, const json_t *here, bool strict, const char *where,
                             kd_err *err)
{
    json_t *a = json_copy((json_t *)there), *b = json_copy((json_t *)here);
    const json_t *va = NULL, *vb = NULL;
    kd_buf path = {0};
    kd_status st = KD_OK;
    if (!a || !b) {
        st = kd_fail(err, KD_ENOMEM, "out of memory");
        goto out;
    }
    if ((st = add_defaults(a, err))) goto out;
    static const char *const of_the_cpu[] = {"isa", "kernels", "products"};
    for (size_t i = 0; !strict && i < KD_COUNT(of_the_cpu); i++) {
        json_object_del(a, of_the_cpu[i]);
        json_object_del(b, of_the_cpu[i]);
    }
    if (differs(a, b, &path, &va, &vb)) {
        char *sa = shown(va), *sb = shown(vb);
        st = kd_fail(err, KD_EMISMATCH,
                     "%s: made by another run: %.*s is %s there and %s now; start over with --force", where,
                     (int)path.len, path.text, sa ? sa : "?", sb ? sb : "?");
        free(sa);
        free(sb);
    }
out:
    kd_buf_release(&path);
    json_decref(a);
    json_decref(b);
    return st;
}

/* ---- provenance --------------------------------------------------------------------------- */

static json_t *teacher_json(const kd_trainer *t, const char *name)
{
    const json_t *fp = json_object_get(kd_store_teacher(t->store, name), "fingerprint");
    return json_pack("{s:s, s:O?}", "name", name, "fingerprint", fp);
}

/* Every teacher once, in the order of the loss. */
static json_t *teachers_json(const kd_trainer *t, const kd__run *r)
{
    json_t *all = json_array();
    for (int i = 0; i < KD_LOSS_TERMS; i++)
        for (int k = 0; k < r->source[i].n; k++) {
            const char *name = kd__trainer_column(t, r->source[i].slot[k])->teacher;
            bool seen = false;
            size_t at;
            json_t *x;
            json_array_foreach(all, at, x) seen |=
                !strcmp(json_string_value(json_object_get(x, "name")), name);
            if (!seen) json_array_append_new(all, teacher_json(t, name));
        }
    return all;
}

static json_t *figure(double v) { return isfinite(v) ? json_real(v) : json_null(); }

kd_status kd__provenance_write(const kd_trainer *t, const kd__run *r, kd_err *err)
{
    const kd_train_result *res = &r->result;
    char hash[17], date[32];
    time_t now = time(NULL);
    struct tm tm;
    char *path = kd_path_join(r->part, "provenance.json"), *formula = kd__sources_text(r, t);
    snprintf(hash, sizeof(hash), "%016llx", (unsigned long long)res->weight_hash);
    strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
    json_t *teachers = teachers_json(t, r), *first = json_array_get(teachers, 0);
    json_t *o =
        json_pack("{s:i, s:s, s:s, s:I, s:s, s:s, s:{s:s, s:s, s:I}, s:o, s:o, s:s, s:I, s:s, s:I, s:I, "
                  "s:I, s:o, s:o, s:o, s:f, s:s, s:O}",
                  "schema", 1, "name", r->spec.name, "role", r->role, "seed", (json_int_t)r->seed, "kd",
                  KD_VERSION, "command", t->command ? t->command : "", "store", "path",
                  kd_store_path(t->store), "root", kd_store_root(t->store), "rows",
                  (json_int_t)kd_store_rows(t->store), "teacher", first ? json_incref(first) : json_null(),
                  "teachers", teachers, "formula", formula ? formula : "", "params", (json_int_t)res->params,
                  "weight_hash", hash, "epochs", (json_int_t)res->epochs, "best_epoch",
                  (json_int_t)r->at.best_epoch, "steps", (json_int_t)kd__run_updates(r), "loss",
                  figure(res->loss), "valid_loss", figure(res->valid_loss), "valid_accuracy",
                  figure(res->valid_accuracy), "seconds", res->seconds, "date", date, "contract",
                  r->contract);
    kd_status st = o && path ? kd_json_save(path, o, err)
                             : kd_fail(err, KD_ENOMEM, "%s: no memory for its provenance", r->folder);
    json_decref(o);
    free(formula);
    free(path);
    return st;
}

static double figure_of(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

kd_status kd__provenance_read(kd__run *r, const char *folder, kd_err *err)
{
    char *path = kd_path_join(folder, "provenance.json");
    json_t *o = NULL;
    const char *hash;
    int64_t params, epochs;
    kd_status st = path ? kd_json_load(path, JSON_LIMIT, &o, err) : kd_fail(err, KD_ENOMEM, "out of memory");
    if (st || (st = kd__contract_check(json_object_get(o, "contract"), r->contract, false, folder, err)) ||
        (st = kd_json_str(o, "weight_hash", &hash, path, err)) ||
        (st = kd_json_int(o, "params", 0, INT64_MAX, &params, path, err)) ||
        (st = kd_json_int(o, "epochs", 0, INT64_MAX, &epochs, path, err)))
        goto out;
    r->result.weight_hash = strtoull(hash, NULL, 16);
    r->result.params = (size_t)params;
    r->result.epochs = (uint64_t)epochs;
    r->result.seconds = figure_of(o, "seconds");
    r->result.loss = figure_of(o, "loss");
    r->result.valid_loss = figure_of(o, "valid_loss");
    r->result.valid_accuracy = figure_of(o, "valid_accuracy");
out:
    json_decref(o);
    free(path);
    return st;
}
