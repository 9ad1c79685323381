/* import.c - outputs of a teacher that ran elsewhere become a segment of a store.
 *
 * In order: what kind of files; open them and check who they belong to; match every row; describe the
 * columns; then chunk by chunk: find the chunk's rows in the files, read, check that they are finite, encode,
 * append. Nothing is written before all rows are matched.
 *
 * The contract, which a resume must repeat, holds the columns, the root of the data and a hash over the bytes
 * of up to 256 rows spread over the store. Rows are taken in the store's order, so the same outputs in files
 * of another order have the same contract, and the segment the same root.
 */
#include "exchange_private.h"
#include "import_private.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SAMPLED_ROWS 256

typedef struct job {
    const kd_import_params *p;
    kd_store *s;
    kd_import_report *report;
    kd__input in;
    kd__packer pack[KD_IMPORT_COLUMNS];
    kd_column column[KD_IMPORT_COLUMNS];
    kd_store_writer *writer;
    kd_cursor *cursor; /* of the ids that random draws are keyed by */
    int ids;
    kd_id *id;         /* (chunk rows) */
    uint64_t *at;      /* (chunk rows) */
    uint64_t *sampled; /* places of the rows that are hashed */
    uint64_t nsampled, step;
} job;

kd_import_params kd_import_default_params(void)
{
    return (kd_import_params){.writer = kd_writer_default_params()};
}

kd_status kd__file_kind_of(const char *path, kd__file_kind *kind, kd_err *err)
{
    uint8_t b[16] = {0};
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return kd_fail_errno(err, errno, "%s: cannot open", path);
    const ssize_t n = pread(fd, b, 16, 0);
    const int errnum = errno;
    close(fd);
    if (n < 0 && errnum == ESPIPE)
        return kd_fail(err, KD_EUNSUPPORTED, "%s: is read in place, so it must be a plain file", path);
    if (n < 0) return kd_fail_errno(err, errnum, "%s: cannot read", path);
    if (n >= 2 && b[0] == 0x1F && b[1] == 0x8B)
        return kd_fail(err, KD_EUNSUPPORTED, "%s: gzip; it is read in place, so gunzip it first", path);
    size_t i = 0;
    while (i < (size_t)n && (b[i] == ' ' || b[i] == '\n' || b[i] == '\r' || b[i] == '\t')) i++;
    if (n >= 6 && !memcmp(b, "\x93NUMPY", 6))
        *kind = KD__NPY;
    else if (n >= 8 && !memcmp(b, "_logits_", 8))
        *kind = KD__KLD;
    else if (n > 8 && b[8] == '{' && !b[7])
        *kind = KD__SAFETENSORS;
    else if (i < (size_t)n && b[i] == '{')
        *kind = KD__JSONL;
    else
        return kd_fail(err, KD_ECORRUPT, "%s: %s, expected .npy, safetensors, JSON lines or .kld", path,
                       n ? "begins as none of the known formats" : "empty");
    return KD_OK;
}

void kd__input_close(kd__input *in)
{
    if (in->close) in->close(in);
    kd__match_release(&in->match);
    kd__names_release(&in->names);
    *in = (kd__input){0};
}

void kd__rows_release(kd__rows *r)
{
    free(r->values);
    free(r->raw);
    free(r->lengths);
    kd_sparse_release(&r->top);
    *r = (kd__rows){0};
}

/* ---- before anything is written ------------------------------------------------------------------ */

static kd_status check_params(const kd_import_params *p, size_t n, kd_err *err)
{
    const kd_role role = p->role ? kd_role_parse(p->role) : KD_ROLE_LOGITS;
    if (!p->name || !*p->name) return kd_fail(err, KD_EUSAGE, "what is the teacher called? say --name NAME");
    if (!n) return kd_fail(err, KD_EUSAGE, "no file to import");
    if (role != KD_ROLE_LOGITS && role != KD_ROLE_SCORE && role != KD_ROLE_FEATURE)
        return kd_fail(err, KD_EUSAGE, "role '%.40s': a teacher's outputs are logits, score or feature",
                       p->role);
    if (p->order && strcmp(p->order, "store") && strcmp(p->order, "source"))
        return kd_fail(err, KD_EUSAGE, "order '%.40s': rows are in the order `store` or `source`", p->order);
    if (p->order && p->ids)
        return kd_fail(err, KD_EUSAGE, "--order and --ids both say which row is which; give one of them");
    return KD_OK;
}

static kd_status open_input(job *j, const char *const *files, size_t n, kd_err *err)
{
    kd__file_kind first = KD__FILE_KINDS, kind;
    kd_status st;
    for (size_t i = 0; i < n; i++) {
        if ((st = kd__file_kind_of(files[i], &kind, err))) return st;
        if (kind == KD__KLD)
            return kd_fail(err, KD_EUSAGE,
                           "%s: a .kld file has its own tokens and makes a store of its own: "
                           "kd-store import %s --name NAME -o NEW.kd",
                           files[i], files[i]);
        if (i && kind != first)
            return kd_fail(err, KD_EMISMATCH,
                           "%s and %s are files of two formats; import them one after the other", files[0],
                           files[i]);
        first = kind;
    }
    return first == KD__JSONL ? kd__jsonl_open(&j->in, j->s, files, n, j->p, j->report, err)
                              : kd__arrays_open(&j->in, j->s, files, n, first, j->p, j->report, err);
}

static kd_status check_names(job *j, const char *file, kd_err *err)
{
    kd__names store = {0}, given = {0};
    kd_status st = kd__names_of_store(&store, j->s, j->p->name, err);
    if (!st && j->p->fingerprint) st = kd__names_set(&given, KD__TEACHER, j->p->fingerprint, err);
    if (!st) st = kd__names_compare(&j->in.names, &given, file, "--fingerprint", err);
    if (!st && given.v[KD__TEACHER]) st = kd__names_set(&j->in.names, KD__TEACHER, given.v[KD__TEACHER], err);
    if (!st) st = kd__names_compare(&j->in.names, &store, file, kd_store_path(j->s), err);
    kd__names_release(&store);
    kd__names_release(&given);
    return st;
}

static void visit(void *arg, uint64_t row, uint64_t at)
{
    job *j = arg;
    if (row % j->step == 0 && j->nsampled < SAMPLED_ROWS) j->sampled[j->nsampled++] = at;
}

static kd_status match(job *j, kd_err *err)
{
    const uint64_t rows = kd_store_rows(j->s);
    j->step = (rows + SAMPLED_ROWS - 1) / SAMPLED_ROWS;
    if (!j->step) j->step = 1;
    if (!(j->sampled = malloc(SAMPLED_ROWS * sizeof *j->sampled)))
        return kd_fail(err, KD_ENOMEM, "out of memory");
    return kd__match_check(&j->in.match, visit, j, err);
}

static kd_status make_buffers(job *j, kd_err *err)
{
    uint32_t rows = 0;
    for (uint32_t i = 0; i < kd_store_chunks(j->s); i++)
        rows = rows > kd_store_chunk(j->s, i)->rows ? rows : kd_store_chunk(j->s, i)->rows;
    j->ids = kd_store_find_role(j->s, KD_ROLE_ID, NULL);
    j->id = malloc((rows + 1) * sizeof *j->id);
    j->at = malloc((rows + 1) * sizeof *j->at);
    if (!j->id || !j->at) return kd_fail(err, KD_ENOMEM, "out of memory");
    return kd_cursor_open(&j->cursor, j->s, err);
}

/* Codebooks are learned from the first rows of the store, which stand in random order. */
static kd_status make_columns(job *j, kd_err *err)
{
    const kd_chunk_info *ci = kd_store_chunk(j->s, 0);
    kd_status st = KD_OK;
    for (size_t i = 0; i < j->in.n && !st; i++) {
        st = kd__packer_open(&j->pack[i], &j->column[i], &j->in.col[i], j->s, j->p, j->in.most, j->in.largest,
                             j->in.match.what, err);
        if (st || !j->pack[i].learns) continue;
        if ((st = kd__match_chunk(&j->in.match, 0, j->at, err))) break;
        kd__match_rewind(&j->in.match);
        st = j->in.fetch(&j->in, i, j->at, ci->rows, &j->pack[i].rows, err);
        if (!st) st = kd__packer_learn(&j->pack[i], &j->column[i], err);
    }
    for (size_t i = 0; i < j->in.n && !st; i++)
        for (size_t k = 0; k < i && !st; k++)
            if (!strcmp(j->column[i].name, j->column[k].name))
                st = kd_fail(err, KD_EMISMATCH,
                             "%s: both %s and %s would be the column %s; say which with --field",
                             j->in.match.what, j->in.col[k].field, j->in.col[i].field, j->column[i].name);
    return st;
}

/* ---- the pass ------------------------------------------------------------------------------------ */

static kd_status hash_sample(job *j, char hex[33], kd_err *err)
{
    kd_hasher *h = kd_hasher_create();
    kd_status st = h ? KD_OK : kd_fail(err, KD_ENOMEM, "out of memory");
    for (uint64_t i = 0; i < j->nsampled && !st; i++) st = j->in.sample(&j->in, j->sampled[i], h, err);
    if (!st) kd_id_hex(kd_hasher_digest(h), hex);
    kd_hasher_free(h);
    return st;
}

/* The teacher's name; features alone get a segment of their own, as kd-dump names it: NAME.feat.LAYER. */
static void segment_name(const job *j, char out[KD_STORE_NAME_MAX])
{
    bool features = true;
    for (size_t i = 0; i < j->in.n; i++) features = features && j->column[i].role == KD_ROLE_FEATURE;
    snprintf(out, KD_STORE_NAME_MAX, "%s",
             j->p->segment ? j->p->segment
             : features    ? j->column[0].name
                           : j->p->name);
    if (!j->p->segment && features) out[strlen(j->p->name)] = '.'; // was the slash
}

static kd_status begin(job *j, kd_err *err)
{
    char segment[KD_STORE_NAME_MAX];
    const json_t *base = json_array_get(json_object_get(kd_store_manifest(j->s), "segments"), 0);
    const char *root = json_string_value(json_object_get(base, "root"));
    const char *name = j->in.names.v[KD__TEACHER];
    char hex[33];
    kd_status st = hash_sample(j, hex, err);
    if (st) return st;
    json_t *contract = json_pack("{s:s, s:s, s:s, s:s, s:s}", "kind", "import", "teacher", name ? name : "",
                                 "name", j->p->name, "store", root ? root : "", "sample", hex);
    if (!contract) return kd_fail(err, KD_ENOMEM, "out of memory (or a name that is not UTF-8)");
    segment_name(j, segment);
    st = kd_store_extend(&j->writer, j->s, segment, j->column, j->in.n, contract, &j->p->writer, err);
    json_decref(contract);
    return st;
}

static kd_status run_chunk(job *j, uint32_t chunk, kd_err *err)
{
    const kd_chunk_info *ci = kd_store_chunk(j->s, chunk);
    kd_block block[KD_IMPORT_COLUMNS];
    kd_status st = kd_cursor_read(j->cursor, j->ids, chunk, j->id, ci->rows * sizeof(kd_id), err);
    for (size_t i = 0; i < j->in.n && !st; i++) {
        kd__packer *p = &j->pack[i];
        if ((st = j->in.fetch(&j->in, i, j->at, ci->rows, &p->rows, err))) break;
        st = kd__packer_pack(p, &j->column[i], ci, j->id, j->p->writer.threads, &block[i], j->report, err);
    }
    if (!st) st = kd_store_writer_append(j->writer, ci->split, ci->rows, block, err);
    if (!st) j->report->rows += ci->rows;
    return st;
}

static kd_status run(job *j, kd_err *err)
{
    const uint32_t chunks = kd_store_chunks(j->s), done = kd_store_writer_chunks(j->writer);
    for (uint32_t i = 0; i < chunks; i++) {
        if (j->p->stop && *j->p->stop)
            return kd_fail(err, KD_ESTOPPED, "%s: stopped after %llu of %llu rows; go on with --resume",
                           kd_store_path(j->s), (unsigned long long)kd_store_writer_rows(j->writer),
                           (unsigned long long)kd_store_rows(j->s));
        kd_status st = kd__match_chunk(&j->in.match, i, j->at, err);
        if (!st && i >= done) st = run_chunk(j, i, err);
        if (st) return st;
        if (j->p->progress) j->p->progress(j->p->arg, kd_store_writer_rows(j->writer), kd_store_rows(j->s));
    }
    return KD_OK;
}

json_t *kd__import_extra(const kd_import_params *p, const kd__names *names, const char *const *files,
                         size_t n)
{
    json_t *list = json_array();
    for (size_t i = 0; list && i < n; i++) json_array_append_new(list, json_string(kd_path_base(files[i])));
    json_t *teacher = json_pack("{s:s, s:s, s:o, s:s}", "name", p->name, "origin", "import", "files", list,
                                "command", p->command ? p->command : "");
    const struct {
        const char *key;
        kd__identity which;
    } said[] = {{"fingerprint", KD__TEACHER}, {"tokenizer", KD__TOKENIZER}, {"view_seed", KD__VIEW_SEED}};
    for (size_t i = 0; teacher && i < KD_COUNT(said); i++)
        if (names->v[said[i].which])
            json_object_set_new(teacher, said[i].key, json_string(names->v[said[i].which]));
    return json_pack("{s:o, s:s}", "teacher", teacher, "command", p->command ? p->command : "");
}

kd_status kd_import(kd_store *s, const char *const *files, size_t n, const kd_import_params *p,
                    kd_import_report *report, kd_err *err)
{
    kd_import_report none;
    job j = {.p = p, .s = s, .report = report ? report : &none};
    *j.report = (kd_import_report){0};
    kd_status st = check_params(p, n, err);
    if (st || (st = open_input(&j, files, n, err)) || (st = check_names(&j, files[0], err)) ||
        (st = match(&j, err)) || (st = make_buffers(&j, err)) || (st = make_columns(&j, err)) ||
        (st = begin(&j, err)) || (st = run(&j, err)))
        goto out;
    j.report->columns = j.in.n;
    json_t *extra = kd__import_extra(p, &j.in.names, files, n);
    if (extra) {
        st = kd_store_writer_seal(j.writer, extra, err);
        j.writer = NULL; // freed in every case
    } else {
        st = kd_fail(err, KD_ENOMEM, "out of memory (or a name that is not UTF-8)");
    }
    json_decref(extra);
out:
    kd_store_writer_close(j.writer); // after a failure: what is whole stays for a resume
    for (size_t i = 0; i < KD_IMPORT_COLUMNS; i++) kd__packer_close(&j.pack[i]);
    kd__input_close(&j.in);
    kd_cursor_close(j.cursor);
    free(j.sampled);
    free(j.id);
    free(j.at);
    return st;
}
