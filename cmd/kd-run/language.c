/* language.c - kd-run complete, chat, score: what a language model is used for.
 *
 * The model is a GGUF file or a folder, and so is its tokenizer. A text comes out token by token as it is
 * drawn. In a chat only what is new goes through the model: the conversation is written anew for each answer,
 * and as far as its tokens are those that were seen, they stay.
 */
#include "run_cmd.h"

#include "kd/model.h"
#include "kd/text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct speaker {
    const kd_cli *c;
    const run_opts *o;
    kd_model *model;
    kd_tokenizer *tokenizer;
    kd_encoder *encoder;
    kd_generator *generator;
    kd_chat *chat;
    uint64_t read, written;     /* tokens */
    double reading, writing;    /* seconds */
    uint32_t end[KD_CHAT_ENDS]; /* tokens that end a text */
    size_t nends;
} speaker;

static kd_status open_speaker(speaker *s, kd_err *err)
{
    const char *path = s->c->args[1];
    kd_status st = kd_model_load(&s->model, path, err);
    if (!st) st = kd_tokenizer_open(&s->tokenizer, path, err);
    if (!st && kd_tokenizer_size(s->tokenizer) > (uint64_t)s->model->spec.vocab)
        st = kd_fail(err, KD_EMISMATCH, "%s: the tokenizer has %u tokens, the model %lld", path,
                     kd_tokenizer_size(s->tokenizer), (long long)s->model->spec.vocab);
    if (!st) st = kd_encoder_open(&s->encoder, s->tokenizer, err);
    if (!st) s->nends = kd_chat_ends(s->tokenizer, s->end);
    return st ? st
              : kd_generator_open(&s->generator, s->model, s->o->context, (int)s->c->common.threads, err);
}

static void close_speaker(speaker *s)
{
    kd_chat_close(s->chat);
    kd_generator_close(s->generator);
    kd_encoder_close(s->encoder);
    kd_tokenizer_close(s->tokenizer);
    kd_model_free(s->model);
}

/* The sequence becomes id: what was seen of it stays, but for the last token, whose logits are wanted. */
static kd_status listen(speaker *s, const uint32_t *id, size_t n, kd_err *err)
{
    const uint32_t *seen;
    size_t keep = 0, most = kd_min_size(kd_generator_seen(s->generator, &seen), n - 1);
    const double start = kd_now();
    while (keep < most && seen[keep] == id[keep]) keep++;
    kd_status st = kd_generator_feed(s->generator, keep, id + keep, n - keep, NULL, err);
    s->reading += kd_now() - start;
    s->read += n - keep;
    return st;
}

static bool ends(const speaker *s, uint32_t id)
{
    for (size_t i = 0; i < s->nends; i++)
        if (s->end[i] == id) return true;
    return false;
}

/* An object a line, takes the reference. */
static kd_status print_line(json_t *j, kd_err *err)
{
    if (!j) return kd_fail(err, KD_EUNSUPPORTED, "a text that is not UTF-8 has no place in JSON");
    json_dumpf(j, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
    putchar('\n');
    json_decref(j);
    return KD_OK;
}

/* Draws until the model ends, printing as it goes. said: NULL, or gets the text. */
static kd_status speak(speaker *s, kd_buf *said, kd_err *err)
{
    const kd_sampling how = {.temperature = s->o->temperature,
                             .top_p = s->o->top_p,
                             .seed = (uint64_t)s->o->seed};
    kd_decode_state state = {0};
    kd_buf out = {0};
    kd_status st = KD_OK;
    const uint32_t *seen;
    const size_t begin = kd_generator_seen(s->generator, &seen);
    const double start = kd_now();
    for (int64_t i = 0; i < s->o->tokens && !st && !kd_stop_requested; i++) {
        const uint32_t id = kd_generator_draw(s->generator, &how);
        if (ends(s, id)) break;
        const size_t before = out.len, n = kd_generator_seen(s->generator, &seen);
        if ((st = kd_decode_next(s->tokenizer, &state, id, false, &out, err))) break;
        if (!s->c->common.json) fwrite(out.text + before, 1, out.len - before, stdout);
        fflush(stdout);
        s->written++;
        st = kd_generator_feed(s->generator, n, &id, 1, NULL, err);
    }
    const size_t before = out.len;
    if (!st) st = kd_decode_end(&state, &out, err);
    if (!st && !s->c->common.json && out.len > before) fwrite(out.text + before, 1, out.len - before, stdout);
    s->writing += kd_now() - start;
    if (st == KD_ELIMIT) st = KD_OK; // the room is full: that is where the text ends
    if (!st && said) kd_buf_append(said, out.text ? out.text : "", out.len);
    if (!st && s->c->common.json) {
        json_t *text = json_stringn(out.text ? out.text : "", out.len), *ids = json_array();
        const size_t end = kd_generator_seen(s->generator, &seen);
        for (size_t i = begin; i < end; i++) json_array_append_new(ids, json_integer(seen[i]));
        st = print_line(json_pack("{s:o, s:o}", "text", text, "tokens", ids), err);
    } else if (!st) {
        putchar('\n');
    }
    kd_buf_release(&out);
    return st;
}

static void note_speed(const speaker *s)
{
    kd_cli_note((kd_cli *)(uintptr_t)s->c, "%llu tokens read, %.0f/s, %llu written, %.1f/s",
                (unsigned long long)s->read, s->reading > 0 ? (double)s->read / s->reading : 0,
                (unsigned long long)s->written, s->writing > 0 ? (double)s->written / s->writing : 0);
}

/* ---- complete ------------------------------------------------------------------------------- */

kd_status run_complete(kd_cli *c, const run_opts *o, kd_err *err)
{
    speaker s = {.c = c, .o = o};
    char *text = NULL;
    size_t len = 0;
    kd_encoding enc;
    kd_status st = open_speaker(&s, err);
    const bool given = c->nargs > 2;
    if (!st && !given) {
        ssize_t n = getdelim(&text, &len, '\0', stdin);
        len = n < 0 ? 0 : (size_t)n;
    }
    const kd_text prompt = given ? (kd_text){c->args[2], strlen(c->args[2])} : (kd_text){text, len};
    if (!st) st = kd_encode(s.encoder, prompt, NULL, &(kd_encode_params){.special = true}, &enc, err);
    if (!st && !enc.n) st = kd_fail(err, KD_EUSAGE, "nothing to go on from: the prompt is empty");
    if (!st) st = listen(&s, enc.id, enc.n, err);
    if (!st) st = speak(&s, NULL, err);
    if (!st) note_speed(&s);
    free(text);
    close_speaker(&s);
    return st;
}

/* ---- chat ----------------------------------------------------------------------------------- */

typedef struct talk {
    kd_message *m;
    size_t n;
} talk;

static kd_status say(talk *t, const char *role, const char *text, size_t len, kd_err *err)
{
    kd_message *more = realloc(t->m, (t->n + 1) * sizeof *more);
    char *copy = malloc(len + 1);
    if (more) t->m = more;
    if (!more || !copy) {
        free(copy);
        return kd_fail(err, KD_ENOMEM, "no memory for a conversation");
    }
    memcpy(copy, text, len);
    t->m[t->n++] = (kd_message){role, {copy, len}};
    return KD_OK;
}

static kd_status answer(speaker *s, talk *t, const char *line, size_t len, kd_err *err)
{
    kd_chat_tokens tokens = {0};
    kd_buf said = {0};
    kd_status st = say(t, "user", line, len, err);
    if (!st) st = kd_chat_encode(s->chat, s->encoder, t->m, t->n, true, &tokens, err);
    if (!st) st = listen(s, tokens.id, tokens.n, err);
    if (!st) st = speak(s, &said, err);
    if (!st) st = say(t, "assistant", said.text ? said.text : "", said.len, err);
    kd_chat_tokens_release(&tokens);
    kd_buf_release(&said);
    return st;
}

kd_status run_chat(kd_cli *c, const run_opts *o, kd_err *err)
{
    speaker s = {.c = c, .o = o};
    talk t = {0};
    char *line = NULL;
    size_t room = 0;
    const bool prompt = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
    kd_status st = open_speaker(&s, err);
    if (!st) st = kd_chat_open(&s.chat, s.tokenizer, err);
    if (!st && o->system) st = say(&t, "system", o->system, strlen(o->system), err);
    while (!st && !kd_stop_requested) {
        ssize_t n;
        if (prompt) fputs("> ", stdout);
        fflush(stdout);
        if ((n = getline(&line, &room, stdin)) < 0) break;
        while (n && (line[n - 1] == '\n' || line[n - 1] == '\r')) n--;
        if (n) st = answer(&s, &t, line, (size_t)n, err);
    }
    if (!st) note_speed(&s);
    for (size_t i = 0; i < t.n; i++) free((char *)(uintptr_t)t.m[i].text.bytes);
    free(t.m);
    free(line);
    close_speaker(&s);
    return st;
}

/* ---- score ---------------------------------------------------------------------------------- */

static kd_status score_line(speaker *s, const char *line, size_t len, double *sum, uint64_t *tokens,
                            kd_err *err)
{
    kd_encoding enc;
    double *nll = NULL, mine = 0;
    kd_status st = kd_encode(s->encoder, (kd_text){line, len}, NULL,
                             &(kd_encode_params){.special = true, .literal = true}, &enc, err);
    if (!st && !(nll = malloc((enc.n + 1) * sizeof *nll)))
        st = kd_fail(err, KD_ENOMEM, "no memory for a line");
    if (!st && enc.n > 1) st = kd_generator_score(s->generator, enc.id, enc.n, nll, err);
    const size_t n = !st && enc.n ? enc.n - 1 : 0;
    for (size_t i = 0; i < n; i++) mine += nll[i];
    free(nll);
    if (st) return st;
    *sum += mine;
    *tokens += n;
    if (s->c->common.json)
        return print_line(json_pack("{s:I, s:f, s:s%}", "tokens", (json_int_t)n, "nll", mine, "text", line,
                                    len),
                          err);
    printf("%.4f\t%zu\t%.*s\n", n ? mine / (double)n : 0, n, (int)len, line);
    return KD_OK;
}

kd_status run_score(kd_cli *c, const run_opts *o, kd_err *err)
{
    speaker s = {.c = c, .o = o};
    char *line = NULL;
    size_t room = 0;
    double sum = 0;
    uint64_t tokens = 0, lines = 0;
    FILE *f = NULL;
    kd_status st = open_speaker(&s, err);
    if (!st && !(f = strcmp(c->args[2], "-") ? fopen(c->args[2], "re") : stdin))
        st = kd_fail(err, KD_ENOTFOUND, "%s: cannot open", c->args[2]);
    const double start = kd_now();
    for (ssize_t n; !st && !kd_stop_requested && (n = getline(&line, &room, f)) >= 0;) {
        while (n && (line[n - 1] == '\n' || line[n - 1] == '\r')) n--;
        lines++;
        if ((st = score_line(&s, line, (size_t)n, &sum, &tokens, err)))
            kd_fail_in(err, st, "%s: line %llu", c->args[2], (unsigned long long)lines);
    }
    if (!st)
        kd_cli_note(c, "%llu lines, %llu tokens, perplexity %.4g, %.0f tokens/s", (unsigned long long)lines,
                    (unsigned long long)tokens, tokens ? exp(sum / (double)tokens) : 1,
                    (double)tokens / (kd_now() - start));
    if (f && f != stdin) fclose(f);
    free(line);
    close_speaker(&s);
    return st;
}
