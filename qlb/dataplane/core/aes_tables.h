/* The lookup tables of core/aes.h: SubBytes and MixColumns of one octet, as a column of four octets.
 *
 * The entry X(d,c,b,a) is the column of octets a, b, c, d that an octet in row 0 becomes. Entries are in the order of
 * the octet's 256 values. For the other rows the column is rotated. The last round of decryption has no MixColumns
 * and needs only the inverse S-box. The last round of encryption reads the S-box from the middle of a column.
 *
 * Spec: FIPS 197, sections 5.1.1, 5.1.3, 5.3.2 and 5.3.3. tests/dataplane/core/test_aes.py reads every entry.
 */
#ifndef QLB_CORE_AES_TABLES_H
#define QLB_CORE_AES_TABLES_H

#include "types.h"

/* clang-format off */
#define QLB_AES_FORWARD(X) \
    X(a5,63,63,c6) X(84,7c,7c,f8) X(99,77,77,ee) X(8d,7b,7b,f6) X(0d,f2,f2,ff) X(bd,6b,6b,d6) X(b1,6f,6f,de) \
    X(54,c5,c5,91) X(50,30,30,60) X(03,01,01,02) X(a9,67,67,ce) X(7d,2b,2b,56) X(19,fe,fe,e7) X(62,d7,d7,b5) \
    X(e6,ab,ab,4d) X(9a,76,76,ec) X(45,ca,ca,8f) X(9d,82,82,1f) X(40,c9,c9,89) X(87,7d,7d,fa) X(15,fa,fa,ef) \
    X(eb,59,59,b2) X(c9,47,47,8e) X(0b,f0,f0,fb) X(ec,ad,ad,41) X(67,d4,d4,b3) X(fd,a2,a2,5f) X(ea,af,af,45) \
    X(bf,9c,9c,23) X(f7,a4,a4,53) X(96,72,72,e4) X(5b,c0,c0,9b) X(c2,b7,b7,75) X(1c,fd,fd,e1) X(ae,93,93,3d) \
    X(6a,26,26,4c) X(5a,36,36,6c) X(41,3f,3f,7e) X(02,f7,f7,f5) X(4f,cc,cc,83) X(5c,34,34,68) X(f4,a5,a5,51) \
    X(34,e5,e5,d1) X(08,f1,f1,f9) X(93,71,71,e2) X(73,d8,d8,ab) X(53,31,31,62) X(3f,15,15,2a) X(0c,04,04,08) \
    X(52,c7,c7,95) X(65,23,23,46) X(5e,c3,c3,9d) X(28,18,18,30) X(a1,96,96,37) X(0f,05,05,0a) X(b5,9a,9a,2f) \
    X(09,07,07,0e) X(36,12,12,24) X(9b,80,80,1b) X(3d,e2,e2,df) X(26,eb,eb,cd) X(69,27,27,4e) X(cd,b2,b2,7f) \
    X(9f,75,75,ea) X(1b,09,09,12) X(9e,83,83,1d) X(74,2c,2c,58) X(2e,1a,1a,34) X(2d,1b,1b,36) X(b2,6e,6e,dc) \
    X(ee,5a,5a,b4) X(fb,a0,a0,5b) X(f6,52,52,a4) X(4d,3b,3b,76) X(61,d6,d6,b7) X(ce,b3,b3,7d) X(7b,29,29,52) \
    X(3e,e3,e3,dd) X(71,2f,2f,5e) X(97,84,84,13) X(f5,53,53,a6) X(68,d1,d1,b9) X(00,00,00,00) X(2c,ed,ed,c1) \
    X(60,20,20,40) X(1f,fc,fc,e3) X(c8,b1,b1,79) X(ed,5b,5b,b6) X(be,6a,6a,d4) X(46,cb,cb,8d) X(d9,be,be,67) \
    X(4b,39,39,72) X(de,4a,4a,94) X(d4,4c,4c,98) X(e8,58,58,b0) X(4a,cf,cf,85) X(6b,d0,d0,bb) X(2a,ef,ef,c5) \
    X(e5,aa,aa,4f) X(16,fb,fb,ed) X(c5,43,43,86) X(d7,4d,4d,9a) X(55,33,33,66) X(94,85,85,11) X(cf,45,45,8a) \
    X(10,f9,f9,e9) X(06,02,02,04) X(81,7f,7f,fe) X(f0,50,50,a0) X(44,3c,3c,78) X(ba,9f,9f,25) X(e3,a8,a8,4b) \
    X(f3,51,51,a2) X(fe,a3,a3,5d) X(c0,40,40,80) X(8a,8f,8f,05) X(ad,92,92,3f) X(bc,9d,9d,21) X(48,38,38,70) \
    X(04,f5,f5,f1) X(df,bc,bc,63) X(c1,b6,b6,77) X(75,da,da,af) X(63,21,21,42) X(30,10,10,20) X(1a,ff,ff,e5) \
    X(0e,f3,f3,fd) X(6d,d2,d2,bf) X(4c,cd,cd,81) X(14,0c,0c,18) X(35,13,13,26) X(2f,ec,ec,c3) X(e1,5f,5f,be) \
    X(a2,97,97,35) X(cc,44,44,88) X(39,17,17,2e) X(57,c4,c4,93) X(f2,a7,a7,55) X(82,7e,7e,fc) X(47,3d,3d,7a) \
    X(ac,64,64,c8) X(e7,5d,5d,ba) X(2b,19,19,32) X(95,73,73,e6) X(a0,60,60,c0) X(98,81,81,19) X(d1,4f,4f,9e) \
    X(7f,dc,dc,a3) X(66,22,22,44) X(7e,2a,2a,54) X(ab,90,90,3b) X(83,88,88,0b) X(ca,46,46,8c) X(29,ee,ee,c7) \
    X(d3,b8,b8,6b) X(3c,14,14,28) X(79,de,de,a7) X(e2,5e,5e,bc) X(1d,0b,0b,16) X(76,db,db,ad) X(3b,e0,e0,db) \
    X(56,32,32,64) X(4e,3a,3a,74) X(1e,0a,0a,14) X(db,49,49,92) X(0a,06,06,0c) X(6c,24,24,48) X(e4,5c,5c,b8) \
    X(5d,c2,c2,9f) X(6e,d3,d3,bd) X(ef,ac,ac,43) X(a6,62,62,c4) X(a8,91,91,39) X(a4,95,95,31) X(37,e4,e4,d3) \
    X(8b,79,79,f2) X(32,e7,e7,d5) X(43,c8,c8,8b) X(59,37,37,6e) X(b7,6d,6d,da) X(8c,8d,8d,01) X(64,d5,d5,b1) \
    X(d2,4e,4e,9c) X(e0,a9,a9,49) X(b4,6c,6c,d8) X(fa,56,56,ac) X(07,f4,f4,f3) X(25,ea,ea,cf) X(af,65,65,ca) \
    X(8e,7a,7a,f4) X(e9,ae,ae,47) X(18,08,08,10) X(d5,ba,ba,6f) X(88,78,78,f0) X(6f,25,25,4a) X(72,2e,2e,5c) \
    X(24,1c,1c,38) X(f1,a6,a6,57) X(c7,b4,b4,73) X(51,c6,c6,97) X(23,e8,e8,cb) X(7c,dd,dd,a1) X(9c,74,74,e8) \
    X(21,1f,1f,3e) X(dd,4b,4b,96) X(dc,bd,bd,61) X(86,8b,8b,0d) X(85,8a,8a,0f) X(90,70,70,e0) X(42,3e,3e,7c) \
    X(c4,b5,b5,71) X(aa,66,66,cc) X(d8,48,48,90) X(05,03,03,06) X(01,f6,f6,f7) X(12,0e,0e,1c) X(a3,61,61,c2) \
    X(5f,35,35,6a) X(f9,57,57,ae) X(d0,b9,b9,69) X(91,86,86,17) X(58,c1,c1,99) X(27,1d,1d,3a) X(b9,9e,9e,27) \
    X(38,e1,e1,d9) X(13,f8,f8,eb) X(b3,98,98,2b) X(33,11,11,22) X(bb,69,69,d2) X(70,d9,d9,a9) X(89,8e,8e,07) \
    X(a7,94,94,33) X(b6,9b,9b,2d) X(22,1e,1e,3c) X(92,87,87,15) X(20,e9,e9,c9) X(49,ce,ce,87) X(ff,55,55,aa) \
    X(78,28,28,50) X(7a,df,df,a5) X(8f,8c,8c,03) X(f8,a1,a1,59) X(80,89,89,09) X(17,0d,0d,1a) X(da,bf,bf,65) \
    X(31,e6,e6,d7) X(c6,42,42,84) X(b8,68,68,d0) X(c3,41,41,82) X(b0,99,99,29) X(77,2d,2d,5a) X(11,0f,0f,1e) \
    X(cb,b0,b0,7b) X(fc,54,54,a8) X(d6,bb,bb,6d) X(3a,16,16,2c)

#define QLB_AES_INVERSE(X) \
    X(50,a7,f4,51) X(53,65,41,7e) X(c3,a4,17,1a) X(96,5e,27,3a) X(cb,6b,ab,3b) X(f1,45,9d,1f) X(ab,58,fa,ac) \
    X(93,03,e3,4b) X(55,fa,30,20) X(f6,6d,76,ad) X(91,76,cc,88) X(25,4c,02,f5) X(fc,d7,e5,4f) X(d7,cb,2a,c5) \
    X(80,44,35,26) X(8f,a3,62,b5) X(49,5a,b1,de) X(67,1b,ba,25) X(98,0e,ea,45) X(e1,c0,fe,5d) X(02,75,2f,c3) \
    X(12,f0,4c,81) X(a3,97,46,8d) X(c6,f9,d3,6b) X(e7,5f,8f,03) X(95,9c,92,15) X(eb,7a,6d,bf) X(da,59,52,95) \
    X(2d,83,be,d4) X(d3,21,74,58) X(29,69,e0,49) X(44,c8,c9,8e) X(6a,89,c2,75) X(78,79,8e,f4) X(6b,3e,58,99) \
    X(dd,71,b9,27) X(b6,4f,e1,be) X(17,ad,88,f0) X(66,ac,20,c9) X(b4,3a,ce,7d) X(18,4a,df,63) X(82,31,1a,e5) \
    X(60,33,51,97) X(45,7f,53,62) X(e0,77,64,b1) X(84,ae,6b,bb) X(1c,a0,81,fe) X(94,2b,08,f9) X(58,68,48,70) \
    X(19,fd,45,8f) X(87,6c,de,94) X(b7,f8,7b,52) X(23,d3,73,ab) X(e2,02,4b,72) X(57,8f,1f,e3) X(2a,ab,55,66) \
    X(07,28,eb,b2) X(03,c2,b5,2f) X(9a,7b,c5,86) X(a5,08,37,d3) X(f2,87,28,30) X(b2,a5,bf,23) X(ba,6a,03,02) \
    X(5c,82,16,ed) X(2b,1c,cf,8a) X(92,b4,79,a7) X(f0,f2,07,f3) X(a1,e2,69,4e) X(cd,f4,da,65) X(d5,be,05,06) \
    X(1f,62,34,d1) X(8a,fe,a6,c4) X(9d,53,2e,34) X(a0,55,f3,a2) X(32,e1,8a,05) X(75,eb,f6,a4) X(39,ec,83,0b) \
    X(aa,ef,60,40) X(06,9f,71,5e) X(51,10,6e,bd) X(f9,8a,21,3e) X(3d,06,dd,96) X(ae,05,3e,dd) X(46,bd,e6,4d) \
    X(b5,8d,54,91) X(05,5d,c4,71) X(6f,d4,06,04) X(ff,15,50,60) X(24,fb,98,19) X(97,e9,bd,d6) X(cc,43,40,89) \
    X(77,9e,d9,67) X(bd,42,e8,b0) X(88,8b,89,07) X(38,5b,19,e7) X(db,ee,c8,79) X(47,0a,7c,a1) X(e9,0f,42,7c) \
    X(c9,1e,84,f8) X(00,00,00,00) X(83,86,80,09) X(48,ed,2b,32) X(ac,70,11,1e) X(4e,72,5a,6c) X(fb,ff,0e,fd) \
    X(56,38,85,0f) X(1e,d5,ae,3d) X(27,39,2d,36) X(64,d9,0f,0a) X(21,a6,5c,68) X(d1,54,5b,9b) X(3a,2e,36,24) \
    X(b1,67,0a,0c) X(0f,e7,57,93) X(d2,96,ee,b4) X(9e,91,9b,1b) X(4f,c5,c0,80) X(a2,20,dc,61) X(69,4b,77,5a) \
    X(16,1a,12,1c) X(0a,ba,93,e2) X(e5,2a,a0,c0) X(43,e0,22,3c) X(1d,17,1b,12) X(0b,0d,09,0e) X(ad,c7,8b,f2) \
    X(b9,a8,b6,2d) X(c8,a9,1e,14) X(85,19,f1,57) X(4c,07,75,af) X(bb,dd,99,ee) X(fd,60,7f,a3) X(9f,26,01,f7) \
    X(bc,f5,72,5c) X(c5,3b,66,44) X(34,7e,fb,5b) X(76,29,43,8b) X(dc,c6,23,cb) X(68,fc,ed,b6) X(63,f1,e4,b8) \
    X(ca,dc,31,d7) X(10,85,63,42) X(40,22,97,13) X(20,11,c6,84) X(7d,24,4a,85) X(f8,3d,bb,d2) X(11,32,f9,ae) \
    X(6d,a1,29,c7) X(4b,2f,9e,1d) X(f3,30,b2,dc) X(ec,52,86,0d) X(d0,e3,c1,77) X(6c,16,b3,2b) X(99,b9,70,a9) \
    X(fa,48,94,11) X(22,64,e9,47) X(c4,8c,fc,a8) X(1a,3f,f0,a0) X(d8,2c,7d,56) X(ef,90,33,22) X(c7,4e,49,87) \
    X(c1,d1,38,d9) X(fe,a2,ca,8c) X(36,0b,d4,98) X(cf,81,f5,a6) X(28,de,7a,a5) X(26,8e,b7,da) X(a4,bf,ad,3f) \
    X(e4,9d,3a,2c) X(0d,92,78,50) X(9b,cc,5f,6a) X(62,46,7e,54) X(c2,13,8d,f6) X(e8,b8,d8,90) X(5e,f7,39,2e) \
    X(f5,af,c3,82) X(be,80,5d,9f) X(7c,93,d0,69) X(a9,2d,d5,6f) X(b3,12,25,cf) X(3b,99,ac,c8) X(a7,7d,18,10) \
    X(6e,63,9c,e8) X(7b,bb,3b,db) X(09,78,26,cd) X(f4,18,59,6e) X(01,b7,9a,ec) X(a8,9a,4f,83) X(65,6e,95,e6) \
    X(7e,e6,ff,aa) X(08,cf,bc,21) X(e6,e8,15,ef) X(d9,9b,e7,ba) X(ce,36,6f,4a) X(d4,09,9f,ea) X(d6,7c,b0,29) \
    X(af,b2,a4,31) X(31,23,3f,2a) X(30,94,a5,c6) X(c0,66,a2,35) X(37,bc,4e,74) X(a6,ca,82,fc) X(b0,d0,90,e0) \
    X(15,d8,a7,33) X(4a,98,04,f1) X(f7,da,ec,41) X(0e,50,cd,7f) X(2f,f6,91,17) X(8d,d6,4d,76) X(4d,b0,ef,43) \
    X(54,4d,aa,cc) X(df,04,96,e4) X(e3,b5,d1,9e) X(1b,88,6a,4c) X(b8,1f,2c,c1) X(7f,51,65,46) X(04,ea,5e,9d) \
    X(5d,35,8c,01) X(73,74,87,fa) X(2e,41,0b,fb) X(5a,1d,67,b3) X(52,d2,db,92) X(33,56,10,e9) X(13,47,d6,6d) \
    X(8c,61,d7,9a) X(7a,0c,a1,37) X(8e,14,f8,59) X(89,3c,13,eb) X(ee,27,a9,ce) X(35,c9,61,b7) X(ed,e5,1c,e1) \
    X(3c,b1,47,7a) X(59,df,d2,9c) X(3f,73,f2,55) X(79,ce,14,18) X(bf,37,c7,73) X(ea,cd,f7,53) X(5b,aa,fd,5f) \
    X(14,6f,3d,df) X(86,db,44,78) X(81,f3,af,ca) X(3e,c4,68,b9) X(2c,34,24,38) X(5f,40,a3,c2) X(72,c3,1d,16) \
    X(0c,25,e2,bc) X(8b,49,3c,28) X(41,95,0d,ff) X(71,01,a8,39) X(de,b3,0c,08) X(9c,e4,b4,d8) X(90,c1,56,64) \
    X(61,84,cb,7b) X(70,b6,32,d5) X(74,5c,6c,48) X(42,57,b8,d0)

#define QLB_AES_COLUMNS(d, c, b, a) {0x##d##c##b##a, 0x##c##b##a##d, 0x##b##a##d##c, 0x##a##d##c##b},

/* By input octet, then by row. */
static const uint32_t qlb_aes_forward[256][4] = {QLB_AES_FORWARD(QLB_AES_COLUMNS)};
static const uint32_t qlb_aes_inverse[256][4] = {QLB_AES_INVERSE(QLB_AES_COLUMNS)};

static const uint8_t qlb_aes_inverse_sbox[256] = {
    0x52, 0x09, 0x6a, 0xd5, 0x30, 0x36, 0xa5, 0x38, 0xbf, 0x40, 0xa3, 0x9e, 0x81, 0xf3, 0xd7, 0xfb,
    0x7c, 0xe3, 0x39, 0x82, 0x9b, 0x2f, 0xff, 0x87, 0x34, 0x8e, 0x43, 0x44, 0xc4, 0xde, 0xe9, 0xcb,
    0x54, 0x7b, 0x94, 0x32, 0xa6, 0xc2, 0x23, 0x3d, 0xee, 0x4c, 0x95, 0x0b, 0x42, 0xfa, 0xc3, 0x4e,
    0x08, 0x2e, 0xa1, 0x66, 0x28, 0xd9, 0x24, 0xb2, 0x76, 0x5b, 0xa2, 0x49, 0x6d, 0x8b, 0xd1, 0x25,
    0x72, 0xf8, 0xf6, 0x64, 0x86, 0x68, 0x98, 0x16, 0xd4, 0xa4, 0x5c, 0xcc, 0x5d, 0x65, 0xb6, 0x92,
    0x6c, 0x70, 0x48, 0x50, 0xfd, 0xed, 0xb9, 0xda, 0x5e, 0x15, 0x46, 0x57, 0xa7, 0x8d, 0x9d, 0x84,
    0x90, 0xd8, 0xab, 0x00, 0x8c, 0xbc, 0xd3, 0x0a, 0xf7, 0xe4, 0x58, 0x05, 0xb8, 0xb3, 0x45, 0x06,
    0xd0, 0x2c, 0x1e, 0x8f, 0xca, 0x3f, 0x0f, 0x02, 0xc1, 0xaf, 0xbd, 0x03, 0x01, 0x13, 0x8a, 0x6b,
    0x3a, 0x91, 0x11, 0x41, 0x4f, 0x67, 0xdc, 0xea, 0x97, 0xf2, 0xcf, 0xce, 0xf0, 0xb4, 0xe6, 0x73,
    0x96, 0xac, 0x74, 0x22, 0xe7, 0xad, 0x35, 0x85, 0xe2, 0xf9, 0x37, 0xe8, 0x1c, 0x75, 0xdf, 0x6e,
    0x47, 0xf1, 0x1a, 0x71, 0x1d, 0x29, 0xc5, 0x89, 0x6f, 0xb7, 0x62, 0x0e, 0xaa, 0x18, 0xbe, 0x1b,
    0xfc, 0x56, 0x3e, 0x4b, 0xc6, 0xd2, 0x79, 0x20, 0x9a, 0xdb, 0xc0, 0xfe, 0x78, 0xcd, 0x5a, 0xf4,
    0x1f, 0xdd, 0xa8, 0x33, 0x88, 0x07, 0xc7, 0x31, 0xb1, 0x12, 0x10, 0x59, 0x27, 0x80, 0xec, 0x5f,
    0x60, 0x51, 0x7f, 0xa9, 0x19, 0xb5, 0x4a, 0x0d, 0x2d, 0xe5, 0x7a, 0x9f, 0x93, 0xc9, 0x9c, 0xef,
    0xa0, 0xe0, 0x3b, 0x4d, 0xae, 0x2a, 0xf5, 0xb0, 0xc8, 0xeb, 0xbb, 0x3c, 0x83, 0x53, 0x99, 0x61,
    0x17, 0x2b, 0x04, 0x7e, 0xba, 0x77, 0xd6, 0x26, 0xe1, 0x69, 0x14, 0x63, 0x55, 0x21, 0x0c, 0x7d,
};
/* clang-format on */

#endif
