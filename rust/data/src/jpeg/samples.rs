//! Here: an encoder for tests: libjpeg-turbo's own. Not here: anything that is not a test's.

use turbojpeg_sys as tj;

/// A JPEG of interleaved RGB pixels; `settings` are TurboJPEG parameters and their values.
pub(crate) fn encode(rgb: &[u8], width: usize, settings: &[(tj::TJPARAM, i32)]) -> Vec<u8> {
    let height = rgb.len() / 3 / width;
    let mut bytes = std::ptr::null_mut();
    let mut length = 0;
    // SAFETY: `rgb` holds width x height pixels; the library allocates the output, which is copied
    // before it is freed.
    unsafe {
        let handle = tj::tj3Init(tj::TJINIT_TJINIT_COMPRESS as i32);
        let mut status = 0;
        for &(parameter, value) in settings {
            status |= tj::tj3Set(handle, parameter as i32, value);
        }
        let (w, h) = (width as i32, height as i32);
        let format = tj::TJPF_TJPF_RGB;
        status |= tj::tj3Compress8(handle, rgb.as_ptr(), w, 0, h, format, &mut bytes, &mut length);
        assert_eq!(status, 0, "the encoder refused");
        let jpeg = std::slice::from_raw_parts(bytes, length as usize).to_vec();
        tj::tj3Free(bytes.cast());
        tj::tj3Destroy(handle);
        jpeg
    }
}

/// Quality 90, 4:2:0, further settings on top.
pub(crate) fn usual(rgb: &[u8], width: usize, more: &[(tj::TJPARAM, i32)]) -> Vec<u8> {
    let mut settings = vec![(tj::TJPARAM_TJPARAM_QUALITY, 90), (tj::TJPARAM_TJPARAM_SUBSAMP, 2)];
    settings.extend(more);
    encode(rgb, width, &settings)
}
