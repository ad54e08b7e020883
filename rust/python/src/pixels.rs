//! Here: decode, peek, draw and apply for Python; views and parameters to and from Python objects.
//! Not here: pixels, draws, defaults.
//!
//! Views are the frozen dataclasses of `barlow.data.views`, told apart by the name of their class.

use std::cell::RefCell;

use barlow_data::augment::{
    Applied, Augmenter, Crop, Cut, Interpolation, Operation, Parameters, Simd, View, Window,
};
use barlow_data::decode::{self, Codes, Decoder, Image, Part};
use barlow_data::floats;
use barlow_data::recode::Recoder;
use numpy::{
    PyArray1, PyArray3, PyArrayMethods, PyReadonlyArray3, PyReadonlyArray4, PyReadwriteArray4,
    PyUntypedArrayMethods,
};
use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};

use crate::errors::to_py;

/// Format ("jpeg", "png" or "webp"), height and width in pixels, from the header alone.
#[pyfunction]
pub(crate) fn peek(py: Python<'_>, data: &[u8]) -> PyResult<(&'static str, u32, u32)> {
    let header = decode::peek(data).map_err(|error| to_py(py, &error))?;
    Ok((header.format.name(), header.height, header.width))
}

thread_local! {
    static RECODER: RefCell<Recoder> = RefCell::new(Recoder::new());

    /// By whether the library reads the codes: setting one up costs as much as a small image.
    static DECODERS: RefCell<[Option<Decoder>; 2]> = const { RefCell::new([None, None]) };
}

/// Image bytes to uint8 RGB [height, width, 3], both sides divided by `shrink`. `library_codes`: libjpeg-turbo
/// reads the Huffman codes of a JPEG itself; the pixels are the same.
#[pyfunction(name = "decode")]
#[pyo3(signature = (data, shrink = 1, library_codes = false))]
pub(crate) fn decode_image<'py>(
    py: Python<'py>,
    data: &[u8],
    shrink: u32,
    library_codes: bool,
) -> PyResult<Bound<'py, PyArray3<u8>>> {
    let mut image = Image::default();
    let codes = if library_codes { Codes::Library } else { Codes::Own };
    let part = Part { shrink, ..Part::WHOLE };
    py.detach(|| {
        DECODERS.with_borrow_mut(|decoders| {
            let place = &mut decoders[usize::from(library_codes)];
            let decoder = match place {
                Some(decoder) => decoder,
                None => place.insert(Decoder::with(codes)?),
            };
            decoder.decode_part(data, part, &mut image)
        })
    })
    .map_err(|error| to_py(py, &error))?;
    let shape = [image.rows(), image.columns(), 3];
    PyArray1::from_vec(py, image.data).reshape(shape)
}

/// The member for a JPEG that `barlow pack --recode` would write; None: it would be stored as it is.
#[pyfunction]
pub(crate) fn recode<'py>(py: Python<'py>, data: &[u8]) -> Option<Bound<'py, PyBytes>> {
    let member = py.detach(|| RECODER.with_borrow_mut(|recoder| recoder.recode(data))).ok()?;
    Some(PyBytes::new(py, &member))
}

/// The original file of a recoded image, checked against its checksum.
#[pyfunction]
pub(crate) fn restore<'py>(py: Python<'py>, data: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    let file = py.detach(|| RECODER.with_borrow_mut(|recoder| recoder.restore(data)));
    let file = file.map_err(|error| to_py(py, &error))?;
    Ok(PyBytes::new(py, &file))
}

/// Raises ValueError or TypeError for a view that cannot work.
#[pyfunction]
pub(crate) fn check_view(view: &Bound<'_, PyAny>) -> PyResult<()> {
    view_from_py(view).map(|_| ())
}

/// The parameters of one view of one image, as `apply` takes them.
#[pyfunction]
#[allow(clippy::too_many_arguments, reason = "the coordinates of a draw, named one by one in Python")]
pub(crate) fn draw<'py>(
    py: Python<'py>,
    view: &Bound<'py, PyAny>,
    seed: u64,
    epoch: u32,
    sample: u32,
    view_index: u16,
    width: u32,
    height: u32,
) -> PyResult<Bound<'py, PyDict>> {
    if width == 0 || height == 0 {
        return Err(PyValueError::new_err(format!("an image of {width}x{height} pixels has no views")));
    }
    let view = view_from_py(view)?;
    parameters_to_py(py, &view.draw(seed, epoch, sample, view_index, width, height))
}

/// Names of the instruction sets that this CPU has kernels for, slowest first.
#[pyfunction]
pub(crate) fn simd() -> Vec<&'static str> {
    Simd::available().into_iter().map(Simd::name).collect()
}

/// One view of an image: uint8 [height, width, 3] to uint8 [3, size, size]. `simd`: on these instructions
/// (the fastest by default); all give equal pixels.
#[pyfunction]
#[pyo3(signature = (image, parameters, simd = None))]
pub(crate) fn apply<'py>(
    py: Python<'py>,
    image: PyReadonlyArray3<'py, u8>,
    parameters: &Bound<'py, PyDict>,
    simd: Option<&str>,
) -> PyResult<Bound<'py, PyArray3<u8>>> {
    let parameters = parameters_from_py(parameters)?;
    let simd = match simd {
        None => Simd::detect(),
        Some(name) => Simd::available()
            .into_iter()
            .find(|simd| simd.name() == name)
            .ok_or_else(|| PyValueError::new_err(format!("this CPU has {:?}, not {name:?}", self::simd())))?,
    };
    let &[height, width, channels] = image.shape() else {
        return Err(PyTypeError::new_err("an image has three dimensions"));
    };
    if channels != 3 {
        return Err(PyValueError::new_err(format!("an image has 3 channels, not {channels}")));
    }
    let Ok(pixels) = image.as_slice() else {
        return Err(PyValueError::new_err("the image must be C-contiguous"));
    };
    let data = pixels.to_vec();
    let image = Image::new(width as u32, height as u32, data);
    let size = parameters.cut.size as usize;
    let mut out = vec![0; 3 * size * size];
    py.detach(|| Augmenter::on(simd).apply(&image, &parameters, &mut out))
        .map_err(|error| to_py(py, &error))?;
    PyArray1::from_vec(py, out).reshape([3, size, size])
}

/// uint8 [N, 3, H, W] into float32 [N, H, W, 3]: value * scale + shift by channel.
#[pyfunction]
pub(crate) fn to_floats<'py>(
    py: Python<'py>,
    views: PyReadonlyArray4<'py, u8>,
    scale: [f32; 3],
    shift: [f32; 3],
    threads: usize,
    mut out: PyReadwriteArray4<'py, f32>,
) -> PyResult<()> {
    let (&[n, channels, height, width], &[rows, down, across, last]) = (views.shape(), out.shape()) else {
        return Err(PyTypeError::new_err("views and floats have four dimensions"));
    };
    if [n, channels, height, width] != [rows, 3, down, across] || last != 3 {
        return Err(PyValueError::new_err("views [N, 3, H, W] become floats [N, H, W, 3]"));
    }
    let (Ok(bytes), Ok(floats)) = (views.as_slice(), out.as_slice_mut()) else {
        return Err(PyValueError::new_err("views and floats must be C-contiguous"));
    };
    if bytes.is_empty() {
        return Ok(());
    }
    py.detach(|| floats::to_floats(bytes, 3 * height * width, (scale, shift), threads, floats))
        .map_err(|error| to_py(py, &error))
}

/// A view from `barlow.data.views`, validated: ValueError for a value that cannot work (also one that no
/// integer of ours holds), TypeError for something else than a view.
pub(crate) fn view_from_py(view: &Bound<'_, PyAny>) -> PyResult<View> {
    read_view(view).map_err(|error| match error.is_instance_of::<PyOverflowError>(view.py()) {
        true => PyValueError::new_err(format!("{view:?}: {error}")),
        false => error,
    })
}

fn read_view(view: &Bound<'_, PyAny>) -> PyResult<View> {
    if class_name(view)? != "View" {
        return Err(unknown("view", view));
    }
    let mut operations = Vec::new();
    for operation in view.getattr("operations")?.try_iter()? {
        operations.push(operation_from_py(&operation?)?);
    }
    let view_of = View { crop: crop_from_py(&view.getattr("crop")?)?, operations };
    view_of.validate().map_err(|error| to_py(view.py(), &error))?;
    Ok(view_of)
}

fn class_name(object: &Bound<'_, PyAny>) -> PyResult<String> {
    Ok(object.get_type().name()?.to_string())
}

fn unknown(what: &str, object: &Bound<'_, PyAny>) -> PyErr {
    PyTypeError::new_err(format!("not a {what} of barlow.data.views: {object:?}"))
}

fn crop_from_py(crop: &Bound<'_, PyAny>) -> PyResult<Crop> {
    let interpolation = || interpolation_from_py(&crop.getattr("interpolation")?.extract::<String>()?);
    let size = || crop.getattr("size")?.extract();
    match class_name(crop)?.as_str() {
        "RandomResizedCrop" => Ok(Crop::RandomResized {
            size: size()?,
            scale: crop.getattr("scale")?.extract()?,
            ratio: crop.getattr("ratio")?.extract()?,
            interpolation: interpolation()?,
        }),
        "ResizeCenterCrop" => Ok(Crop::ResizeCenter {
            resize: crop.getattr("resize")?.extract()?,
            size: size()?,
            interpolation: interpolation()?,
        }),
        _ => Err(unknown("crop", crop)),
    }
}

fn operation_from_py(operation: &Bound<'_, PyAny>) -> PyResult<Operation> {
    let p = || operation.getattr("p")?.extract();
    let range = |name: &str, neutral: f64| jitter_range(&operation.getattr(name)?, name, neutral);
    match class_name(operation)?.as_str() {
        "Flip" => Ok(Operation::Flip { p: p()? }),
        "Grayscale" => Ok(Operation::Grayscale { p: p()? }),
        "GaussianBlur" => {
            Ok(Operation::GaussianBlur { sigma: operation.getattr("sigma")?.extract()?, p: p()? })
        }
        "Solarize" => {
            Ok(Operation::Solarize { threshold: operation.getattr("threshold")?.extract()?, p: p()? })
        }
        "ColorJitter" => Ok(Operation::ColorJitter {
            brightness: range("brightness", 1.0)?,
            contrast: range("contrast", 1.0)?,
            saturation: range("saturation", 1.0)?,
            hue: range("hue", 0.0)?,
            p: p()?,
        }),
        _ => Err(unknown("operation", operation)),
    }
}

/// torchvision's two ways to give a range: (low, high), or one number x for neutral - x to neutral + x,
/// where factors (not the hue) stop at 0.
fn jitter_range(value: &Bound<'_, PyAny>, name: &str, neutral: f64) -> PyResult<(f64, f64)> {
    let Ok(spread) = value.extract::<f64>() else {
        return value.extract();
    };
    if spread < 0.0 {
        return Err(PyValueError::new_err(format!("{name} must not be negative, not {spread:?}")));
    }
    let low = if neutral > 0.0 { (neutral - spread).max(0.0) } else { -spread };
    Ok((low, neutral + spread))
}

fn interpolation_from_py(name: &str) -> PyResult<Interpolation> {
    match name {
        "bilinear" => Ok(Interpolation::Bilinear),
        "bicubic" => Ok(Interpolation::Bicubic),
        _ => Err(PyValueError::new_err(format!("interpolation must be bilinear or bicubic, not {name:?}"))),
    }
}

fn parameters_to_py<'py>(py: Python<'py>, parameters: &Parameters) -> PyResult<Bound<'py, PyDict>> {
    let Cut { window, resized, offset, size, interpolation } = parameters.cut;
    let interpolation = match interpolation {
        Interpolation::Bilinear => "bilinear",
        Interpolation::Bicubic => "bicubic",
    };
    let operations = PyList::empty(py);
    for &operation in &parameters.operations {
        let (name, value) = named(operation);
        let step = match value {
            None => PyTuple::new(py, [name])?,
            Some(value) => (name, value).into_pyobject(py)?,
        };
        operations.append(step)?;
    }
    let dict = PyDict::new(py);
    dict.set_item("window", (window.x, window.y, window.width, window.height))?;
    dict.set_item("resized", resized)?;
    dict.set_item("offset", offset)?;
    dict.set_item("size", size)?;
    dict.set_item("interpolation", interpolation)?;
    dict.set_item("operations", operations)?;
    Ok(dict)
}

fn named(operation: Applied) -> (&'static str, Option<f64>) {
    match operation {
        Applied::Flip => ("flip", None),
        Applied::Brightness(factor) => ("brightness", Some(factor)),
        Applied::Contrast(factor) => ("contrast", Some(factor)),
        Applied::Saturation(factor) => ("saturation", Some(factor)),
        Applied::Hue(shift) => ("hue", Some(shift)),
        Applied::Grayscale => ("grayscale", None),
        Applied::Blur(sigma) => ("blur", Some(sigma)),
        Applied::Solarize(threshold) => ("solarize", Some(f64::from(threshold))),
    }
}

fn parameters_from_py(dict: &Bound<'_, PyDict>) -> PyResult<Parameters> {
    let item = |name: &str| {
        dict.get_item(name)?.ok_or_else(|| PyValueError::new_err(format!("parameters lack {name:?}")))
    };
    let (x, y, width, height) = item("window")?.extract()?;
    let cut = Cut {
        window: Window { x, y, width, height },
        resized: item("resized")?.extract()?,
        offset: item("offset")?.extract()?,
        size: item("size")?.extract()?,
        interpolation: interpolation_from_py(&item("interpolation")?.extract::<String>()?)?,
    };
    let mut operations = Vec::new();
    for step in item("operations")?.try_iter()? {
        operations.push(applied_from_py(&step?)?);
    }
    Ok(Parameters { cut, operations })
}

fn applied_from_py(step: &Bound<'_, PyAny>) -> PyResult<Applied> {
    let wrong = || PyValueError::new_err(format!("not a step of a view: {step:?}"));
    let name: String = step.get_item(0)?.extract()?;
    let value = if step.len()? == 2 { Some(step.get_item(1)?.extract::<f64>()?) } else { None };
    if value.is_some_and(|value| !value.is_finite()) {
        return Err(wrong());
    }
    match (name.as_str(), value) {
        ("flip", None) => Ok(Applied::Flip),
        ("grayscale", None) => Ok(Applied::Grayscale),
        ("brightness", Some(factor)) => Ok(Applied::Brightness(factor)),
        ("contrast", Some(factor)) => Ok(Applied::Contrast(factor)),
        ("saturation", Some(factor)) => Ok(Applied::Saturation(factor)),
        ("hue", Some(shift)) if shift.abs() <= 0.5 => Ok(Applied::Hue(shift)),
        ("blur", Some(sigma)) if (0.0..=100.0).contains(&sigma) => Ok(Applied::Blur(sigma)),
        ("solarize", Some(threshold)) if (0.0..=255.0).contains(&threshold) => {
            Ok(Applied::Solarize(threshold as u8))
        }
        _ => Err(wrong()),
    }
}
