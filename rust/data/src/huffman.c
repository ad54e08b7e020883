/* Here: the Huffman codes of one sequential scan to coefficients, in place of libjpeg-turbo's own reader.
 * Not here: markers, restarts, tables' validity, progressive files, everything after the coefficients: all
 * of that stays libjpeg-turbo's, and so does every block near which this file sees anything unusual.
 *
 * Two thirds of a full decode are spent on these codes. libjpeg-turbo looks a code up and then takes the
 * bits of its value in a second step, each with its own test of how many bits are left. Here
 *  - one lookup gives a code's length, its run of zeros and its value, if all fits into the table;
 *  - the 64-bit buffer is filled eight bytes at a time without a branch, once for up to five codes;
 *  - the end of a block is a code like any other;
 *  - bytes 0xFF (stuffing and markers) are looked for in all eight bytes at once.
 * Coefficients are exactly libjpeg-turbo's. One thing differs: a code that does not exist is an error
 * wherever it stands; libjpeg-turbo takes it for the end of the block if the data goes on long enough.
 *
 * The state between two blocks is libjpeg-turbo's, so that either side can go on where the other stopped. */

#include "huffman.h"

#include <stdlib.h>
#include <string.h>
#include <jerror.h>

/* How jdhuff.c of libjpeg-turbo 3.1 begins its state; `attach` compares what it can before it trusts this. */
typedef struct {
  void (*start_pass)(j_decompress_ptr);
  boolean (*decode_mcu)(j_decompress_ptr, JBLOCKROW *);
  void (*decode_mcus)(void);
  boolean (*process_restart)(j_decompress_ptr);
  boolean insufficient_data;
  struct {
    size_t bits; /* the lowest `left` are next, the highest of them first */
    int left;
  } buffer;
  int last_dc[MAX_COMPS_IN_SCAN];
  unsigned restarts_to_go;
} library_state;

/* An entry of `first`: value << 16 | step << 8 | bits. `bits` are those of code and value together. The value
 * belongs `step - 1` places on from the next place; the end of a block is a 0 at the next place (nothing is
 * there yet) with 128 more in its step, and 16 zeros are a 0 at the last of their places: no branch tells
 * them from any other code. What doesn't fit into the lookahead has ESCAPE: size << 16 | step << 8 | ESCAPE |
 * bits of the code alone, the value's `size` bits to follow; ESCAPE and nothing else for a longer code. */
#define ESCAPE 0x80u
#define STEP(entry) ((entry) >> 8 & 0xff)
#define VALUE(entry) ((int16_t)((entry) >> 16))
#define END_OF_BLOCK 128

/* Zigzag position plus 1, or plus 129 at the end of a block, to place. Damaged files run up to 15 places
 * beyond the last one, and as in libjpeg-turbo that hits the last one. */
#define ZIGZAG                                                                                                \
  0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7,   \
      14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, \
      46, 53, 60, 61, 54, 47, 55, 62, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63
_Static_assert(sizeof((uint8_t[]){ZIGZAG}) == 80, "64 places and 16 beyond");
static const uint8_t PLACE[1 + END_OF_BLOCK + 80] = {[1] = ZIGZAG, [1 + END_OF_BLOCK] = ZIGZAG};

/* The number that `size` bits stand for (ITU-T T.81, table F.1 and figure F.12). */
static inline int extend(unsigned bits, unsigned size) {
  return (int)bits - (bits >> (size - 1) ? 0 : (1 << size) - 1);
}

static void fill(uint32_t *from, unsigned log2_count, uint32_t entry) {
  for (uint32_t *end = from + (1u << log2_count); from < end; from++) *from = entry;
}

/* How far a symbol (its run of zeros, the size of its value) goes. */
static unsigned step_of(unsigned symbol) {
  return symbol & 15 || symbol >> 4 == 15 ? (symbol >> 4) + 1 : 1 + END_OF_BLOCK;
}

/* Entries for a code of `length` bits that stands for `symbol`, from the first index that begins with it. */
static void enter(uint32_t *from, unsigned length, unsigned symbol) {
  unsigned size = symbol & 15, spare = BARLOW_LOOKAHEAD - length, step = step_of(symbol) << 8;
  if (size > spare) {
    fill(from, spare, size << 16 | step | ESCAPE | length);
    return;
  }
  for (unsigned bits = 0; bits < 1u << size; bits++) {
    uint32_t value = size ? (uint32_t)extend(bits, size) << 16 : 0;
    fill(from + (bits << (spare - size)), spare - size, value | step | (length + size));
  }
}

/* libjpeg-turbo has found the table valid: lengths that a prefix code can have, symbols in range. */
static void prepare(barlow_codes *codes, const JHUFF_TBL *table) {
  if (memcmp(codes->bits, table->bits, sizeof codes->bits) == 0 &&
      memcmp(codes->values, table->huffval, sizeof codes->values) == 0)
    return;
  memcpy(codes->bits, table->bits, sizeof codes->bits);
  memcpy(codes->values, table->huffval, sizeof codes->values);
  fill(codes->first, BARLOW_LOOKAHEAD, ESCAPE);
  unsigned code = 0, index = 0;
  for (unsigned length = 1; length <= 16; length++) {
    codes->offset[length] = (int)index - (int)code;
    for (unsigned i = 0; i < table->bits[length]; i++, code++, index++) {
      if (length <= BARLOW_LOOKAHEAD)
        enter(codes->first + (code << (BARLOW_LOOKAHEAD - length)), length, table->huffval[index]);
    }
    codes->bound[length] = code << (16 - length);
    code <<= 1;
  }
}

typedef struct {
  uint64_t bits; /* the next bit is the highest; those below `left` are nothing or what is read next */
  unsigned left; /* modulo 64 */
  unsigned invented; /* of them, zeros after the end of the data */
  const JOCTET *next, *end;
} reader;

static inline uint64_t eight_bytes(const JOCTET *bytes) {
  uint64_t word;
  memcpy(&word, bytes, sizeof word);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  word = __builtin_bswap64(word);
#endif
  return word;
}

/* Byte by byte: near a 0xFF or the end. After a marker or the end there are zeros for ever, counted. */
static __attribute__((noinline, cold)) reader refill_with_care(reader in) {
  in.left &= 63;
  while (in.left < 56) {
    if (in.next == in.end || (in.next[0] == 0xff && (in.next + 1 == in.end || in.next[1] != 0))) {
      in.bits = in.left ? in.bits >> (64 - in.left) << (64 - in.left) : 0;
      in.invented += 56 - (in.left & ~7);
      in.left += 56 - (in.left & ~7);
      break;
    }
    in.bits |= (uint64_t)*in.next << (56 - in.left);
    in.left += 8;
    in.next += in.next[0] == 0xff ? 2 : 1;
  }
  return in;
}

/* At least 56 bits. */
static inline __attribute__((always_inline)) void refill(reader *in) {
  if (__builtin_expect(in->end - in->next >= 8, 1)) {
    uint64_t word = eight_bytes(in->next);
    unsigned wanted = (~in->left & 63) >> 3;
    /* Marks every byte 0xff, and possibly bytes 0xfe before it. */
    uint64_t marks = (~word - 0x0101010101010101) & word & 0x8080808080808080;
    if (__builtin_expect(marks >> 1 >> (63 - 8 * wanted) == 0, 1)) {
      in->bits |= word >> (in->left & 63);
      in->next += wanted;
      in->left |= 56;
      return;
    }
  }
  *in = refill_with_care(*in);
}

/* Counts are taken modulo 64, which lets an entry stand for its lowest bits. */
static inline __attribute__((always_inline)) void drop(reader *in, unsigned count) {
  in->bits <<= count & 63;
  in->left -= count;
}

static inline __attribute__((always_inline)) uint32_t look_up(const reader *in, const barlow_codes *codes) {
  return codes->first[in->bits >> (64 - BARLOW_LOOKAHEAD)];
}

/* A code longer than the lookahead, as an entry that still lacks its value; 0 if there is no such code. */
static __attribute__((noinline)) uint32_t long_code(const barlow_codes *codes, uint64_t bits) {
  unsigned prefix = (unsigned)(bits >> 48);
  for (unsigned length = BARLOW_LOOKAHEAD + 1; length <= 16; length++) {
    if (prefix >= codes->bound[length]) continue;
    unsigned symbol = codes->values[((int)(prefix >> (16 - length)) + codes->offset[length]) & 0xff];
    return (symbol & 15) << 16 | step_of(symbol) << 8 | length;
  }
  return 0;
}

/* An entry that has ESCAPE, to one that has none; 0 if there is no such code. At most 31 bits in all. */
static inline __attribute__((always_inline)) uint32_t look_further(const barlow_codes *codes, uint64_t bits,
                                                                   uint32_t entry) {
  if (entry == ESCAPE) entry = long_code(codes, bits);
  unsigned size = entry >> 16, length = entry & 63;
  if (size == 0) return entry & ~ESCAPE;
  uint32_t value = (uint32_t)extend((unsigned)(bits << length >> (64 - size)), size) << 16;
  return value | (entry & 0xff00) | (length + size);
}

enum { DONE, NO_SUCH_CODE };

/* One block. A refill gives 56 bits: five codes within the lookahead, or one of any length with its value. */
_Static_assert(56 >= 5 * BARLOW_LOOKAHEAD && 56 >= 16 + 15, "a refill gives too few bits");

static inline __attribute__((always_inline)) int read_block(reader *state, const barlow_codes *dc,
                                                            const barlow_codes *ac, int *last_dc,
                                                            JCOEF *block) {
  reader in = *state;
  int result = DONE;
  refill(&in);
  uint32_t entry = look_up(&in, dc);
  if (__builtin_expect(entry & ESCAPE, 0)) entry = look_further(dc, in.bits, entry);
  drop(&in, entry);
  *last_dc = (int)((unsigned)*last_dc + (unsigned)VALUE(entry)); /* damaged files may wrap around */
  block[0] = (JCOEF)*last_dc;
  unsigned place = 1;
  if (__builtin_expect(entry == 0, 0)) place = DCTSIZE2, result = NO_SUCH_CODE;

#define READ_CODE                                       \
  entry = look_up(&in, ac);                             \
  if (__builtin_expect(entry & ESCAPE, 0)) goto escape; \
  drop(&in, entry);                                     \
  place += STEP(entry);                                 \
  block[PLACE[place]] = VALUE(entry);                   \
  if (place >= DCTSIZE2) break;

  while (place < DCTSIZE2) {
    refill(&in);
    READ_CODE
    READ_CODE
    READ_CODE
    READ_CODE
    READ_CODE
    continue;
  escape:
    refill(&in);
    entry = look_further(ac, in.bits, entry);
    drop(&in, entry);
    place += STEP(entry);
    block[PLACE[place]] = VALUE(entry);
    if (entry == 0) {
      result = NO_SUCH_CODE;
      break;
    }
  }
#undef READ_CODE
  *state = in;
  return result;
}

static inline __attribute__((always_inline)) boolean read_blocks(j_decompress_ptr jpeg, JBLOCKROW *blocks) {
  barlow_huffman *self = jpeg->client_data;
  library_state *state = (library_state *)jpeg->entropy;
  struct jpeg_source_mgr *source = jpeg->src;
  if (jpeg->unread_marker != 0 || state->insufficient_data || state->buffer.left > 63 ||
      (jpeg->restart_interval != 0 && state->restarts_to_go == 0))
    return self->library(jpeg, blocks);

  const JOCTET *next = source->next_input_byte;
  reader in = {0, (unsigned)state->buffer.left, 0, next, next + source->bytes_in_buffer};
  if (in.left > 0) in.bits = (uint64_t)state->buffer.bits << (64 - in.left);
  int last_dc[MAX_COMPS_IN_SCAN];
  memcpy(last_dc, state->last_dc, sizeof last_dc);
  for (int i = 0; i < jpeg->blocks_in_MCU; i++) {
    int *last = &last_dc[jpeg->MCU_membership[i]];
    int result = read_block(&in, self->dc_of[i], self->ac_of[i], last, blocks ? blocks[i][0] : self->unwanted);
    in.left &= 63;
    if (__builtin_expect(in.invented > in.left || (result == NO_SUCH_CODE && in.invented > 0), 0)) {
      /* The data ends here, or seems to: libjpeg-turbo reads these blocks again and says what is wrong. */
      for (int j = 0; blocks != NULL && j <= i; j++) memset(blocks[j], 0, sizeof(JBLOCK));
      return self->library(jpeg, blocks);
    }
    if (__builtin_expect(result == NO_SUCH_CODE, 0)) {
      jpeg->err->msg_code = JWRN_HUFF_BAD_CODE;
      jpeg->err->emit_message((j_common_ptr)jpeg, -1); /* does not return: see `judge` in jpeg.c */
      return self->library(jpeg, blocks);
    }
  }
  in.left -= in.invented;
  state->buffer.left = (int)in.left;
  state->buffer.bits = in.left > 0 ? (size_t)(in.bits >> (64 - in.left)) : 0;
  memcpy(state->last_dc, last_dc, sizeof last_dc);
  source->next_input_byte = in.next;
  source->bytes_in_buffer = (size_t)(in.end - in.next);
  if (jpeg->restart_interval != 0) state->restarts_to_go--;
  return TRUE;
}

static boolean read_plainly(j_decompress_ptr jpeg, JBLOCKROW *blocks) { return read_blocks(jpeg, blocks); }

#if defined(__x86_64__)
/* Shifts by a variable count are three instructions without BMI2. */
__attribute__((target("bmi,bmi2"))) static boolean read_with_bmi2(j_decompress_ptr jpeg, JBLOCKROW *blocks) {
  return read_blocks(jpeg, blocks);
}
#endif

void barlow_huffman_attach(barlow_huffman *self, j_decompress_ptr jpeg) {
  library_state *state = (library_state *)jpeg->entropy;
  /* Scans that come one after another keep all coefficients first; those files, and arithmetic coding, are
   * rare. At 1/8 only the first coefficient of each block is wanted, and libjpeg-turbo skips the others. */
  if (sizeof(size_t) != 8 || LIBJPEG_TURBO_VERSION_NUMBER / 1000 != 3001 || jpeg->progressive_mode ||
      jpeg->arith_code || jpeg->comps_in_scan != jpeg->num_components || jpeg->data_precision != 8 ||
      jpeg->scale_denom == 8)
    return;
  if (jpeg->Ss != 0 || jpeg->Se != DCTSIZE2 - 1 || jpeg->Ah != 0 || jpeg->Al != 0) return; /* lossless, odd */
  /* Just after the start of the pass the state is known: were its layout another one, this would show. */
  if (state->buffer.left != 0 || state->buffer.bits != 0 || state->insufficient_data ||
      state->restarts_to_go != jpeg->restart_interval || state->last_dc[0] != 0)
    return;
  for (int i = 0; i < jpeg->comps_in_scan; i++) {
    const jpeg_component_info *component = jpeg->cur_comp_info[i];
    prepare(&self->dc[component->dc_tbl_no], jpeg->dc_huff_tbl_ptrs[component->dc_tbl_no]);
    prepare(&self->ac[component->ac_tbl_no], jpeg->ac_huff_tbl_ptrs[component->ac_tbl_no]);
  }
  for (int i = 0; i < jpeg->blocks_in_MCU; i++) {
    const jpeg_component_info *component = jpeg->cur_comp_info[jpeg->MCU_membership[i]];
    self->dc_of[i] = &self->dc[component->dc_tbl_no];
    self->ac_of[i] = &self->ac[component->ac_tbl_no];
  }
  self->library = state->decode_mcu;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("bmi2")) {
    state->decode_mcu = read_with_bmi2;
    return;
  }
#endif
  state->decode_mcu = read_plainly;
}
