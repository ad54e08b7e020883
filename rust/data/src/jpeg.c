/* Here: one JPEG in memory to rows of 8-bit RGB or CMYK, with libjpeg-turbo's own setjmp/longjmp
 * kept on this side of the border, and every warning judged.
 * Not here: pixel arithmetic, header checks and limits (jpeg.rs), any I/O.
 *
 * Why not the TurboJPEG API: it keeps the text of the first warning only, so a harmless one (an odd
 * JFIF revision) would hide damage behind it, and damage comes back as grey rows and "success". */

#include <setjmp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <jpeglib.h>
#include <jerror.h>

#include "huffman.h"

#if !defined(LIBJPEG_TURBO_VERSION_NUMBER) || LIBJPEG_TURBO_VERSION_NUMBER < 3001000
#error "barlow needs libjpeg-turbo 3.1 or newer"
#endif

/* Exists in builds with SIMD only, so a library without it does not link; 0 when the CPU has none. */
extern int jsimd_can_idct_islow(void);

typedef struct {
  barlow_huffman huffman; /* first: huffman.c finds it through client_data */
  struct jpeg_decompress_struct jpeg;
  struct jpeg_error_mgr errors;
  struct jpeg_progress_mgr progress;
  jmp_buf escape;
  int max_scans;
  unsigned tolerated;
  char message[JMSG_LENGTH_MAX];
} barlow_jpeg;

int barlow_jpeg_version(void) { return LIBJPEG_TURBO_VERSION_NUMBER; }

int barlow_jpeg_simd(void) { return jsimd_can_idct_islow(); }

static void fail(j_common_ptr common) {
  barlow_jpeg *self = common->client_data;
  (*common->err->format_message)(common, self->message);
  longjmp(self->escape, 1);
}

/* Warnings after which every pixel is still what the file says are counted; all others (data that
 * ends early, codes that do not exist, scans out of order) mean invented pixels and end the decode. */
static void judge(j_common_ptr common, int level) {
  barlow_jpeg *self = common->client_data;
  if (level >= 0) return; /* a trace message */
  switch (common->err->msg_code) {
    case JWRN_EXTRANEOUS_DATA: /* padding before a marker; Pillow, torchvision and DALI accept it */
    case JWRN_JFIF_MAJOR:      /* odd revision number */
    case JWRN_ADOBE_XFORM:     /* odd colour transform number, read as YCbCr */
    case JWRN_NOT_SEQUENTIAL:  /* progressive parameters in a baseline scan, ignored */
      self->tolerated++;
      return;
    default:
      fail(common);
  }
}

static void silent(j_common_ptr common) { (void)common; }

/* Runs between blocks of rows while a multi-scan file is read in. jpeg.rs has counted the scans
 * before; this holds even where the two read a damaged file differently. */
static void watch(j_common_ptr common) {
  barlow_jpeg *self = common->client_data;
  if (self->jpeg.input_scan_number > self->max_scans) {
    snprintf(self->message, sizeof self->message, "more than %d scans", self->max_scans);
    longjmp(self->escape, 1);
  }
}

static int start(barlow_jpeg *self) {
  self->jpeg.err = jpeg_std_error(&self->errors);
  self->jpeg.client_data = self; /* kept by jpeg_create_decompress */
  self->errors.error_exit = fail;
  self->errors.emit_message = judge;
  self->errors.output_message = silent;
  self->progress.progress_monitor = watch;
  if (setjmp(self->escape)) return -1;
  jpeg_create_decompress(&self->jpeg);
  return 0;
}

barlow_jpeg *barlow_jpeg_new(void) {
  barlow_jpeg *self = calloc(1, sizeof *self);
  if (self != NULL && start(self) != 0) {
    free(self);
    self = NULL;
  }
  return self;
}

void barlow_jpeg_free(barlow_jpeg *self) {
  if (self == NULL) return;
  jpeg_destroy_decompress(&self->jpeg);
  free(self);
}

const char *barlow_jpeg_message(const barlow_jpeg *self) { return self->message; }

unsigned barlow_jpeg_tolerated(const barlow_jpeg *self) { return self->tolerated; }

typedef struct {
  unsigned shrink;      /* 1, 2, 4 or 8: libjpeg divides both sides by it */
  unsigned left, right; /* columns after that, right exclusive */
  unsigned top, bottom; /* rows */
  unsigned pitch;       /* pixels from one row to the next in the caller's memory */
} barlow_part;

/* IDCT and colours of whole coding units only, and of one more on each side: upsampled chroma is smoothed
 * over the neighbours, and libjpeg takes the edge of what it is asked for as the edge of the image. Returns
 * the first column that there is. */
static unsigned narrow(struct jpeg_decompress_struct *jpeg, const barlow_part *part) {
  unsigned unit = DCTSIZE / part->shrink * (unsigned)jpeg->max_h_samp_factor;
  JDIMENSION left = part->left < unit ? 0 : part->left - unit;
  JDIMENSION right = jpeg->output_width - part->right < unit ? jpeg->output_width : part->right + unit;
  JDIMENSION width = right - left;
  if (width < jpeg->output_width) jpeg_crop_scanline(jpeg, &left, &width);
  return left;
}

/* Passes over the rows above the part. libjpeg skips whole rows of coding units but for the last, from which
 * it has the neighbours of what follows. */
static void descend(struct jpeg_decompress_struct *jpeg, const barlow_part *part, JSAMPROW unwanted) {
  unsigned unit = DCTSIZE / part->shrink * (unsigned)jpeg->max_v_samp_factor;
  if (part->top >= 2 * unit) jpeg_skip_scanlines(jpeg, part->top / unit * unit);
  while (jpeg->output_scanline < part->top) jpeg_read_scanlines(jpeg, &unwanted, 1);
}

/* Decodes a part of an image of width x height pixels, after shrinking, into `rows`: `part->pitch` pixels for
 * each of its rows, of `channels` bytes, 3 (RGB) or 4 (CMYK as stored). `*first` is the column of the first
 * pixel of each; at least those of the part are there and exact. What lies below is not looked at. With
 * `library_codes` libjpeg-turbo reads the Huffman codes itself. Returns 0, or -1 with a message. */
int barlow_jpeg_decode(barlow_jpeg *self, const unsigned char *bytes, size_t length, unsigned char *rows,
                       unsigned width, unsigned height, int channels, const barlow_part *part,
                       unsigned *first, int library_codes, int max_scans, long max_memory) {
  struct jpeg_decompress_struct *jpeg = &self->jpeg;
  if (setjmp(self->escape)) {
    jpeg_abort_decompress(jpeg);
    return -1;
  }
  /* A new object for each image: an old one would lend its Huffman and quantisation tables to a file that
   * lacks its own, and the pixels would depend on what was decoded before. A few microseconds. */
  jpeg_destroy_decompress(jpeg);
  jpeg_create_decompress(jpeg);
  self->max_scans = max_scans;
  jpeg->mem->max_memory_to_use = max_memory; /* beyond it libjpeg would want a temporary file, and fails */
  self->tolerated = 0;
  self->message[0] = 0;
  jpeg->progress = &self->progress;
  jpeg_mem_src(jpeg, bytes, (unsigned long)length);
  jpeg_read_header(jpeg, TRUE);
  /* The defaults of the library are the pixels wanted: accurate IDCT, fancy upsampling. */
  jpeg->out_color_space = channels == 4 ? JCS_CMYK : JCS_RGB;
  jpeg->scale_num = 1;
  jpeg->scale_denom = part->shrink;
  jpeg_start_decompress(jpeg);
  if (jpeg->output_width != width || jpeg->output_height != height ||
      jpeg->output_components != channels || jpeg->data_precision != 8) {
    snprintf(self->message, sizeof self->message, "two frame headers that differ");
    longjmp(self->escape, 1);
  }
  if (!library_codes) barlow_huffman_attach(&self->huffman, jpeg);
  *first = narrow(jpeg, part);
  if (jpeg->output_width > part->pitch) {
    snprintf(self->message, sizeof self->message, "rows of %u pixels do not fit %u", jpeg->output_width,
             part->pitch);
    longjmp(self->escape, 1);
  }
  descend(jpeg, part, rows);
  while (jpeg->output_scanline < part->bottom) {
    JSAMPROW row = rows + (size_t)(jpeg->output_scanline - part->top) * part->pitch * (unsigned)channels;
    jpeg_read_scanlines(jpeg, &row, 1);
  }
  if (part->bottom < height) {
    jpeg_abort_decompress(jpeg);
  } else {
    jpeg_finish_decompress(jpeg);
  }
  return 0;
}
