/* Here: what jpeg.c needs of huffman.c.
 * Not here: how codes are read. */

#ifndef BARLOW_HUFFMAN_H
#define BARLOW_HUFFMAN_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <jpeglib.h>

/* One lookup of so many bits finds most codes together with the value bits that follow them. */
#define BARLOW_LOOKAHEAD 11

typedef struct {
  UINT8 bits[17], values[256]; /* what the tables below were made of */
  uint32_t first[1 << BARLOW_LOOKAHEAD];
  uint32_t bound[18]; /* by length: the first 16-bit prefix beyond the codes of that length */
  int offset[17];     /* by length: index in `values` of the code 0 */
} barlow_codes;

typedef struct {
  boolean (*library)(j_decompress_ptr jpeg, JBLOCKROW *blocks);
  const barlow_codes *dc_of[D_MAX_BLOCKS_IN_MCU], *ac_of[D_MAX_BLOCKS_IN_MCU]; /* by block of an MCU */
  JBLOCK unwanted; /* where blocks go that libjpeg-turbo skips */
  barlow_codes dc[NUM_HUFF_TBLS], ac[NUM_HUFF_TBLS];
} barlow_huffman;

/* Between jpeg_start_decompress and the first row: reads this image's codes from here on, if it is one that
 * huffman.c can read. `jpeg->client_data` must point to `self`, which must outlive the image. */
void barlow_huffman_attach(barlow_huffman *self, j_decompress_ptr jpeg);

#endif
