//! Memory that other libraries own: the one file of this crate with unsafe code.
//!
//! A [`View`] is a strided view of it as its owner describes it: a NumPy array, a PyTorch tensor on the CPU, or whatever
//! exports DLPack. It holds the owner, so the memory lives as long as the view. What owners say is believed, as every library
//! that takes their arrays must: that the memory is there, and is not written to by others while a call reads it. All else is
//! checked here: alignment, strides, extents, and that what is written overlaps nothing that is read.

use std::ffi::{CStr, c_void};
use std::ptr::NonNull;

use numpy::npyffi::NPY_ARRAY_WRITEABLE;
use numpy::{PyArrayDescrMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyCapsule, PyDict, PyTuple, PyType};
use pyo3::{ffi, intern};
use regard_memory::{Tensor, TensorMut, advise_huge};

use crate::arrays::{Copies, room};
use crate::dtype::{Dtype, Scalar};
use crate::error::of_memory;
use crate::work::detached;

/// Axes of an array, at most: `[batch, heads, seq, dim]`.
pub(crate) const AXES: usize = 4;

/// Whose memory it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    NumPy,
    Torch,
    /// Of another library, by DLPack.
    Other,
}

/// Why a view is of a copy of what the caller gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Copied {
    /// Of a structured array, or read from the middle of a file.
    Unaligned,
    /// PyTorch keeps a sign for all of it.
    Negated,
    /// Nobody says whose memory `__array__` gives.
    ByArray,
}

impl Copied {
    fn reason(self) -> &'static str {
        match self {
            Copied::Unaligned => "is not aligned to its numbers: numpy.array or .clone() copies it",
            Copied::Negated => "is a view with the other sign: .resolve_neg() copies it",
            Copied::ByArray => "gives its numbers by __array__, which may copy them: numpy.asarray does so once",
        }
    }
}

/// A strided view of memory that a Python object owns.
pub(crate) struct View<'py> {
    pub(crate) name: &'static str,
    /// What the caller gave, or a copy of it.
    pub(crate) object: Bound<'py, PyAny>,
    pub(crate) kind: Kind,
    pub(crate) dtype: Dtype,
    pub(crate) writeable: bool,
    axes: usize,
    /// The extents and strides, in elements; filled up with axes of extent 1 in front.
    shape: [usize; AXES],
    strides: [isize; AXES],
    pointer: *mut u8,
    copied: Option<Copied>,
    /// What a DLPack view keeps alive.
    _keeps: Option<Bound<'py, PyAny>>,
}

impl<'py> View<'py> {
    /// The view of an object that is an array of floating-point numbers, of at most four axes.
    ///
    /// # Errors
    /// `TypeError` where it is none, or of other numbers, or on another device; `ValueError` where it has more axes, has no
    /// memory, or is a tensor whose gradient would be lost.
    pub(crate) fn of(name: &'static str, object: &Bound<'py, PyAny>) -> PyResult<Self> {
        if let Ok(array) = object.cast::<PyUntypedArray>() {
            return Self::of_numpy(name, array);
        }
        if let Some(torch) = Torch::get(object.py())?
            && object.is_instance(torch.tensor.bind(object.py()))?
        {
            return Self::of_torch(name, object, torch);
        }
        if object.hasattr(intern!(object.py(), "__dlpack__"))? {
            return Self::of_dlpack(name, object);
        }
        let buffer = is_buffer(object);
        if buffer || object.hasattr(intern!(object.py(), "__array__"))? {
            let array = numpy(object.py())?.call_method1(intern!(object.py(), "asarray"), (object,))?;
            let view = Self::of_numpy(name, array.cast::<PyUntypedArray>()?)?;
            return Ok(if buffer { view } else { view.copied(Copied::ByArray) });
        }
        Err(PyTypeError::new_err(format!(
            "`{name}` is {}; expected an array (NumPy, PyTorch, JAX or anything with DLPack): numpy.asarray makes one",
            article(&type_name(object))
        )))
    }

    /// The view of an array that takes a result.
    ///
    /// # Errors
    /// As [`View::of`]; and where the result would be written to a copy, and lost.
    pub(crate) fn to_write(name: &'static str, object: &Bound<'py, PyAny>) -> PyResult<Self> {
        let view = Self::of(name, object)?;
        match view.copied {
            None => Ok(view),
            Some(Copied::ByArray) => Err(PyTypeError::new_err(format!(
                "`{name}` is {}, which gives its numbers by __array__, maybe a copy; expected NumPy, PyTorch, DLPack or a \
                 buffer",
                article(&type_name(object))
            ))),
            Some(copied) => Err(PyValueError::new_err(format!("`{name}` {}", copied.reason()))),
        }
    }

    /// Tells the owner that its numbers are written to, as PyTorch's own operations do: gradients of what was there before are
    /// then refused.
    pub(crate) fn tell_written(&self) -> PyResult<()> {
        let py = self.object.py();
        if self.kind == Kind::Torch && !self.object.call_method0(intern!(py, "is_inference"))?.is_truthy()? {
            let graph = py.import(intern!(py, "torch.autograd.graph"))?;
            graph.call_method1(intern!(py, "increment_version"), (&self.object,))?;
        }
        Ok(())
    }

    /// The same as a view of a copy.
    fn copied(self, copied: Copied) -> Self {
        View { copied: Some(copied), writeable: false, ..self }
    }

    fn of_numpy(name: &'static str, array: &Bound<'py, PyUntypedArray>) -> PyResult<Self> {
        if !array.is_exact_instance_of::<PyUntypedArray>() && type_name(array) == "MaskedArray" {
            let fix = "attention has masks of its own: give `mask`, and .filled(0) of this";
            return Err(PyTypeError::new_err(format!("`{name}` is a MaskedArray; {fix}")));
        }
        let descr = array.dtype();
        if !matches!(descr.byteorder(), b'=' | b'|') {
            let native = "its bytes are in the other order: .astype(x.dtype.newbyteorder('=')) turns them";
            return Err(PyTypeError::new_err(format!("`{name}` has dtype {descr}; {native}")));
        }
        let dtype = Dtype::of_numpy(&descr).ok_or_else(|| wrong_dtype(name, &descr.to_string()))?;
        // SAFETY: the array lives while `array` borrows it; its struct is only read.
        let (pointer, flags) = unsafe {
            let raw = array.as_array_ptr();
            ((*raw).fields.data.cast::<u8>(), (*raw).fields.flags)
        };
        let size = dtype.bytes() as isize;
        let (mut shape, mut strides) = (Extents::new(name, array.ndim())?, Extents::new(name, array.ndim())?);
        let mut whole = pointer.addr().is_multiple_of(dtype.bytes());
        for (axis, (&extent, &stride)) in array.shape().iter().zip(array.strides()).enumerate() {
            shape.set(axis, extent as isize);
            strides.set(axis, stride / size);
            whole &= stride % size == 0 || extent <= 1;
        }
        if !whole {
            let copy = numpy(array.py())?.call_method1(intern!(array.py(), "array"), (array,))?;
            return Ok(Self::of_numpy(name, copy.cast::<PyUntypedArray>()?)?.copied(Copied::Unaligned));
        }
        Ok(View {
            name,
            object: array.as_any().clone(),
            kind: Kind::NumPy,
            dtype,
            writeable: flags & NPY_ARRAY_WRITEABLE != 0,
            axes: array.ndim(),
            shape: shape.unsigned(),
            strides: strides.numbers(0),
            pointer,
            copied: None,
            _keeps: None,
        })
    }

    fn of_torch(name: &'static str, tensor: &Bound<'py, PyAny>, torch: &Torch) -> PyResult<Self> {
        let py = tensor.py();
        if tensor.getattr(intern!(py, "is_nested"))?.extract::<bool>()? {
            let fix = "it has no one shape: .to_padded_tensor() gives it one, and `key_lengths` says what is padding";
            return Err(PyTypeError::new_err(format!("`{name}` is a nested tensor, {fix}")));
        }
        let device = || tensor.getattr(intern!(py, "device"));
        if !tensor.getattr(intern!(py, "is_cpu"))?.extract::<bool>()? {
            let device = device()?;
            return Err(PyTypeError::new_err(format!(
                "`{name}` is on the device {device}; expected the CPU: .cpu() copies it"
            )));
        }
        let dtype = tensor.getattr(intern!(py, "dtype"))?;
        let dtype = torch.dtype(&dtype).ok_or_else(|| wrong_dtype(name, &dtype.to_string()))?;
        if tensor.getattr(intern!(py, "requires_grad"))?.extract::<bool>()?
            && torch.is_grad_enabled.bind(py).call0()?.extract::<bool>()?
        {
            return Err(PyValueError::new_err(format!(
                "`{name}` requires a gradient, which this function would lose: .detach() it, or call under torch.no_grad(); \
                 what there is of attention with gradients is in regard.torch"
            )));
        }
        let layout = tensor.getattr(intern!(py, "layout"))?;
        if !torch.strided.bind(py).is(&layout) {
            let expected = "expected torch.strided: .to_dense() makes it so";
            return Err(PyTypeError::new_err(format!("`{name}` has the layout {layout}; {expected}")));
        }
        if tensor.call_method0(intern!(py, "is_neg"))?.extract::<bool>()? {
            let resolved = tensor.call_method0(intern!(py, "resolve_neg"))?;
            return Ok(Self::of_torch(name, &resolved, torch)?.copied(Copied::Negated));
        }
        let (sizes, steps) = (tensor.getattr(intern!(py, "shape"))?, tensor.call_method0(intern!(py, "stride"))?);
        let (sizes, steps) = (sizes.cast::<PyTuple>()?, steps.cast::<PyTuple>()?);
        let (mut shape, mut strides) = (Extents::new(name, sizes.len())?, Extents::new(name, sizes.len())?);
        for axis in 0..sizes.len() {
            shape.set(axis, sizes.get_item(axis)?.extract()?);
            strides.set(axis, steps.get_item(axis)?.extract()?);
        }
        let address: usize = tensor.call_method0(intern!(py, "data_ptr"))?.extract()?;
        if !address.is_multiple_of(dtype.bytes()) {
            let copy = tensor.call_method0(intern!(py, "clone"))?;
            return Ok(Self::of_torch(name, &copy, torch)?.copied(Copied::Unaligned));
        }
        View {
            name,
            object: tensor.clone(),
            kind: Kind::Torch,
            dtype,
            writeable: true,
            axes: sizes.len(),
            shape: shape.unsigned(),
            strides: strides.numbers(0),
            pointer: std::ptr::with_exposed_provenance_mut(address),
            copied: None,
            _keeps: None,
        }
        .with_memory()
    }

    fn of_dlpack(name: &'static str, object: &Bound<'py, PyAny>) -> PyResult<Self> {
        let py = object.py();
        let on_cpu = |device: i32| {
            let problem = || format!("`{name}` is on another device (DLPack's number {device}); expected the CPU");
            if device == DLPACK_CPU { Ok(()) } else { Err(PyTypeError::new_err(problem())) }
        };
        let said =
            object.call_method0(intern!(py, "__dlpack_device__")).and_then(|device| device.extract::<(i32, i32)>());
        let (device, _) = said.map_err(|error| {
            let kind = article(&type_name(object));
            PyTypeError::new_err(format!("`{name}` is {kind} whose numbers are not there to be read: {error}"))
        })?;
        on_cpu(device)?;
        let versions = PyDict::new(py);
        versions.set_item(intern!(py, "max_version"), (1, 0))?;
        let capsule = match object.call_method(intern!(py, "__dlpack__"), (), Some(&versions)) {
            Ok(capsule) => capsule,
            Err(error) if error.is_instance_of::<PyTypeError>(py) => object.call_method0(intern!(py, "__dlpack__"))?,
            Err(error) => return Err(error),
        };
        let raw = |name: &CStr| -> Option<NonNull<c_void>> {
            // SAFETY: both functions take any object and a string that ends in 0; a capsule of the name has a pointer.
            unsafe {
                (ffi::PyCapsule_IsValid(capsule.as_ptr(), name.as_ptr()) == 1)
                    .then(|| NonNull::new(ffi::PyCapsule_GetPointer(capsule.as_ptr(), name.as_ptr())))
                    .flatten()
            }
        };
        // The capsule is not marked as used: when it is dropped with this view it frees what it holds.
        let (tensor, read_only) = if let Some(managed) = raw(c"dltensor_versioned") {
            // SAFETY: by its name the capsule points to a struct that begins with the version, whatever this is, and which
            // lives as long as the capsule.
            let has = unsafe { managed.cast::<DlVersion>().as_ref() }.major;
            if has != 1 {
                return Err(PyValueError::new_err(format!("`{name}` speaks DLPack {has}; expected 1")));
            }
            // SAFETY: as above, and by its version the struct is this one.
            let managed = unsafe { managed.cast::<DlManagedVersioned>().as_ref() };
            (&managed.tensor, managed.flags & DLPACK_READ_ONLY != 0)
        } else if let Some(managed) = raw(c"dltensor") {
            // SAFETY: as above. It cannot say whether it may be written to: JAX's, which never change, look the same.
            (unsafe { &managed.cast::<DlManaged>().as_ref().tensor }, true)
        } else {
            let problem =
                format!("`{name}`.__dlpack__() gave {}, no capsule of a tensor", article(&type_name(&capsule)));
            return Err(PyValueError::new_err(problem));
        };
        on_cpu(tensor.device[0])?;
        let said = format!("DLPack's type code {} of {} bits", tensor.dtype.code, tensor.dtype.bits);
        let dtype = Dtype::of_dlpack(tensor.dtype.code, tensor.dtype.bits, tensor.dtype.lanes);
        let dtype = dtype.ok_or_else(|| wrong_dtype(name, &said))?;
        let axes = usize::try_from(tensor.ndim).unwrap_or(usize::MAX);
        let (mut shape, mut strides) = (Extents::new(name, axes)?, Extents::new(name, axes)?);
        let mut contiguous: isize = 1;
        for axis in (0..axes).rev() {
            // SAFETY: a tensor has as many extents as axes, and as many strides or none at all.
            let (extent, stride) = unsafe {
                let stride = (!tensor.strides.is_null()).then(|| *tensor.strides.add(axis) as isize);
                (*tensor.shape.add(axis) as isize, stride)
            };
            shape.set(axis, extent);
            strides.set(axis, stride.unwrap_or(contiguous));
            contiguous = contiguous.saturating_mul(extent);
        }
        let pointer = tensor.data.cast::<u8>().wrapping_add(usize::try_from(tensor.byte_offset).unwrap_or(usize::MAX));
        if !pointer.addr().is_multiple_of(dtype.bytes()) {
            return Err(PyValueError::new_err(format!("`{name}` is not aligned to its numbers: copy it")));
        }
        View {
            name,
            object: object.clone(),
            kind: Kind::Other,
            dtype,
            writeable: !read_only,
            axes,
            shape: shape.unsigned(),
            strides: strides.numbers(0),
            pointer,
            copied: None,
            _keeps: Some(capsule.cast::<PyCapsule>()?.as_any().clone()),
        }
        .with_memory()
    }

    /// Refuses a view of nothing: a tensor whose storage was given up still has its shape.
    fn with_memory(self) -> PyResult<Self> {
        if self.pointer.is_null() && !self.is_empty() {
            let (name, shape) = (self.name, self.shape());
            return Err(PyValueError::new_err(format!("`{name}` has shape {shape:?}, but no memory behind it")));
        }
        Ok(self)
    }

    /// Asks for huge pages under memory that is new and not written yet.
    pub(crate) fn on_huge_pages(self) -> Self {
        if let Some(bytes) = self.bytes().filter(|bytes| !bytes.is_empty()) {
            // SAFETY: it is a new array's memory, not null as it is not empty, which nobody else has; nothing is read.
            let memory = unsafe { std::slice::from_raw_parts_mut(self.pointer.cast(), bytes.len()) };
            advise_huge(memory);
        }
        self
    }

    /// The extents as the caller gave them.
    pub(crate) fn shape(&self) -> &[usize] {
        &self.shape[AXES - self.axes..]
    }

    /// The extents, with 1 for each axis that is missing in front.
    pub(crate) fn shape4(&self) -> [usize; AXES] {
        self.shape
    }

    pub(crate) fn axes(&self) -> usize {
        self.axes
    }

    fn is_empty(&self) -> bool {
        self.shape.contains(&0)
    }

    /// Whether the engine can read it where it lies: forwards, and contiguous in the last axis.
    pub(crate) fn is_readable(&self) -> bool {
        let mut axes = self.shape.iter().zip(self.strides).rev().filter(|(extent, _)| **extent > 1);
        let last = self.shape[AXES - 1] <= 1 || self.strides[AXES - 1] == 1;
        self.is_empty() || (last && axes.all(|(_, stride)| stride >= 0))
    }

    /// The strides of all axes but the last, in elements.
    fn steps(&self) -> [usize; AXES - 1] {
        std::array::from_fn(|axis| if self.shape[axis] > 1 { self.strides[axis].unsigned_abs() } else { 0 })
    }

    /// Elements from the first to behind the last, of a view that [is readable](Self::is_readable).
    fn reach(&self) -> Option<usize> {
        if self.is_empty() {
            return Some(0);
        }
        let steps = self.steps();
        let before = steps
            .iter()
            .zip(self.shape)
            .try_fold(0usize, |sum, (step, extent)| sum.checked_add(step.checked_mul(extent - 1)?))?;
        before.checked_add(self.shape[AXES - 1])
    }

    /// The addresses of the memory, of a view that is readable.
    fn bytes(&self) -> Option<std::ops::Range<usize>> {
        let bytes = self.reach()?.checked_mul(self.dtype.bytes()).filter(|bytes| *bytes <= isize::MAX as usize)?;
        Some(self.pointer.addr()..self.pointer.addr().checked_add(bytes)?)
    }

    fn unreachable(&self) -> PyErr {
        PyValueError::new_err(format!("`{}` has shape {:?}, which no memory holds", self.name, self.shape()))
    }

    /// The tensor `[batch, heads, seq, dim]`.
    ///
    /// # Errors
    /// `ValueError` where the view runs backwards or is not contiguous in the last axis, or reaches further than memory does.
    ///
    /// # Panics
    /// The numbers are of another type.
    pub(crate) fn tensor<T: Scalar>(&self) -> PyResult<Tensor<'_, T>> {
        assert_eq!(self.dtype, T::DTYPE, "`{}`", self.name);
        let reach = self.check()?;
        if reach == 0 {
            return Tensor::new(&[], self.shape, self.steps()).map_err(|error| of_memory(error.named(self.name)));
        }
        // SAFETY: the memory of the view is the owner's, who lives as long as `self`, and `check` has found that it is no
        // larger than memory can be; it is aligned.
        let slice = unsafe { std::slice::from_raw_parts(self.pointer.cast::<T>(), reach) };
        Tensor::new(slice, self.shape, self.steps()).map_err(|error| of_memory(error.named(self.name)))
    }

    /// The same to write to; `inputs` are all that is read at the same time.
    ///
    /// # Errors
    /// As [`View::tensor`]; and where the memory is read-only, overlaps itself, or overlaps an input.
    ///
    /// # Panics
    /// The numbers are of another type.
    pub(crate) fn tensor_mut<T: Scalar>(&mut self, inputs: &[&View<'_>]) -> PyResult<TensorMut<'_, T>> {
        assert_eq!(self.dtype, T::DTYPE, "`{}`", self.name);
        let reach = self.check()?;
        if !self.writeable {
            return Err(PyValueError::new_err(format!("`{}` is read-only: it cannot take the result", self.name)));
        }
        let own = self.bytes().ok_or_else(|| self.unreachable())?;
        for input in inputs {
            let other = input.bytes().ok_or_else(|| input.unreachable())?;
            if own.start < other.end && other.start < own.end {
                let (name, input) = (self.name, input.name);
                let problem =
                    format!("`{name}` shares memory with `{input}`, which is read while it is written: copy one");
                return Err(PyValueError::new_err(problem));
            }
        }
        let (shape, steps, name) = (self.shape, self.steps(), self.name);
        if reach == 0 {
            return TensorMut::new(&mut [], shape, steps).map_err(|error| of_memory(error.named(name)));
        }
        // SAFETY: as in `tensor`; it is writeable, overlaps no other view of this call, and is borrowed mutably for as long.
        let slice = unsafe { std::slice::from_raw_parts_mut(self.pointer.cast::<T>(), reach) };
        TensorMut::new(slice, shape, steps).map_err(|error| of_memory(error.named(name)))
    }

    fn check(&self) -> PyResult<usize> {
        if !self.is_readable() {
            let (name, shape, strides) = (self.name, self.shape(), &self.strides[AXES - self.axes..]);
            return Err(PyValueError::new_err(format!(
                "`{name}` has shape {shape:?} with strides {strides:?} (in elements); expected none below zero, and 1 on the \
                 last axis: numpy.ascontiguousarray or .contiguous() copies it so"
            )));
        }
        self.bytes().ok_or_else(|| self.unreachable())?;
        Ok(self.reach().unwrap_or(0))
    }

    /// What becomes of all numbers, in the order of their axes, whatever the strides.
    ///
    /// # Errors
    /// `MemoryError`: a view may repeat one number more often than memory can hold it.
    pub(crate) fn read_as<T: Scalar, R: Send>(&self, convert: impl Fn(T) -> R + Send) -> PyResult<Vec<R>> {
        /// The first of the numbers.
        struct First<T>(*const T);
        // SAFETY: it is only read by, while the view, which keeps the numbers alive, is borrowed.
        unsafe impl<T> Send for First<T> {}

        assert_eq!(self.dtype, T::DTYPE, "`{}`", self.name);
        let mut numbers = room(&self.shape).map_err(of_memory)?;
        if self.is_empty() {
            return Ok(numbers);
        }
        let ([a, b, c, d], strides, first) = (self.shape, self.strides, First(self.pointer.cast::<T>().cast_const()));
        detached(self.object.py(), move || {
            let first = first;
            let step = |axis: usize, at: usize| strides[axis].wrapping_mul(at as isize);
            for (i, j, k) in (0..a).flat_map(|i| (0..b).flat_map(move |j| (0..c).map(move |k| (i, j, k)))) {
                let row = step(0, i).wrapping_add(step(1, j)).wrapping_add(step(2, k));
                let place = |l| first.0.wrapping_offset(row.wrapping_add(step(3, l)));
                // SAFETY: the element is one of the view's, which its owner says are there; it is aligned.
                numbers.extend((0..d).map(|l| convert(unsafe { *place(l) })));
            }
            numbers
        })
    }

    /// `[batch, heads, seq]` as `[batch, heads, seq, 1]`.
    pub(crate) fn column(mut self) -> Self {
        self.shape.rotate_left(1);
        self.strides.rotate_left(1);
        self
    }

    /// A copy that the engine can read, or the view itself where it can read that.
    ///
    /// # Errors
    /// `ValueError` where it would have to be copied and must not be.
    pub(crate) fn readable(self, copies: Copies) -> PyResult<Self> {
        if let (Some(copied), Copies::Refused) = (self.copied, copies) {
            return Err(PyValueError::new_err(format!("`{}` {}", self.name, copied.reason())));
        }
        if self.is_readable() {
            return Ok(self);
        }
        if copies == Copies::Refused {
            self.check()?;
        }
        let py = self.object.py();
        let (name, writeable) = (self.name, false);
        let contiguous = |object: &Bound<'py, PyAny>| -> PyResult<Self> {
            let copy = numpy(py)?.call_method1(intern!(py, "ascontiguousarray"), (object,))?;
            Self::of_numpy(name, copy.cast::<PyUntypedArray>()?)
        };
        let copy = match self.kind {
            Kind::NumPy => contiguous(&self.object)?,
            Kind::Torch => Self::of(name, &self.object.call_method0(intern!(py, "contiguous"))?)?,
            Kind::Other => contiguous(&numpy(py)?.call_method1(intern!(py, "from_dlpack"), (&self.object,))?)?,
        };
        // A result written there would reach nobody.
        Ok(View { writeable, ..copy })
    }
}

/// What is needed of PyTorch, once it is loaded.
pub(crate) struct Torch {
    tensor: Py<PyType>,
    is_grad_enabled: Py<PyAny>,
    strided: Py<PyAny>,
    empty: Py<PyAny>,
    dtypes: [(Dtype, Py<PyAny>); 4],
}

impl Torch {
    /// It, if anybody has imported it.
    pub(crate) fn get(py: Python<'_>) -> PyResult<Option<&Torch>> {
        static TORCH: PyOnceLock<Torch> = PyOnceLock::new();
        if let Some(torch) = TORCH.get(py) {
            return Ok(Some(torch));
        }
        let modules = py.import(intern!(py, "sys"))?.getattr(intern!(py, "modules"))?;
        let Ok(torch) = modules.get_item(intern!(py, "torch")) else { return Ok(None) };
        // One that is only half imported has no tensors yet, nor has anybody one of its.
        if !torch.hasattr("Tensor")? || !torch.hasattr("is_grad_enabled")? {
            return Ok(None);
        }
        let get = |name: &str| torch.getattr(name).map(Bound::unbind);
        TORCH
            .get_or_try_init(py, || {
                Ok(Torch {
                    tensor: torch.getattr("Tensor")?.cast_into::<PyType>()?.unbind(),
                    is_grad_enabled: get("is_grad_enabled")?,
                    strided: get("strided")?,
                    empty: get("empty")?,
                    dtypes: [
                        (Dtype::F32, get("float32")?),
                        (Dtype::F64, get("float64")?),
                        (Dtype::Bf16, get("bfloat16")?),
                        (Dtype::F16, get("float16")?),
                    ],
                })
            })
            .map(Some)
    }

    fn dtype(&self, object: &Bound<'_, PyAny>) -> Option<Dtype> {
        self.dtypes.iter().find(|(_, is)| is.bind(object.py()).is(object)).map(|(dtype, _)| *dtype)
    }

    /// A new tensor.
    pub(crate) fn empty<'py>(&self, py: Python<'py>, shape: &[usize], dtype: Dtype) -> PyResult<Bound<'py, PyAny>> {
        let (_, object) = self.dtypes.iter().find(|(is, _)| *is == dtype).expect("each type is there");
        let settings = PyDict::new(py);
        settings.set_item(intern!(py, "dtype"), object)?;
        self.empty.bind(py).call((PyTuple::new(py, shape)?,), Some(&settings))
    }
}

pub(crate) fn numpy(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    static NUMPY: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    Ok(NUMPY.get_or_try_init(py, || py.import("numpy").map(Bound::unbind))?.bind(py))
}

/// Extents or strides of the last axes of four.
struct Extents {
    numbers: [isize; AXES],
    axes: usize,
}

impl Extents {
    fn new(name: &str, axes: usize) -> PyResult<Self> {
        match axes {
            0..=AXES => Ok(Extents { numbers: [1; AXES], axes }),
            _ => Err(PyValueError::new_err(format!(
                "`{name}` has {axes} axes; expected at most 4, [batch, heads, seq, dim]"
            ))),
        }
    }

    fn set(&mut self, axis: usize, number: isize) {
        self.numbers[AXES - self.axes + axis] = number;
    }

    fn unsigned(&self) -> [usize; AXES] {
        self.numbers.map(|extent| usize::try_from(extent).unwrap_or(0))
    }

    fn numbers(&self, missing: isize) -> [isize; AXES] {
        std::array::from_fn(|axis| if axis < AXES - self.axes { missing } else { self.numbers[axis] })
    }
}

pub(crate) fn type_name(object: &Bound<'_, PyAny>) -> String {
    object.get_type().name().map_or_else(|_| "object".to_owned(), |name| name.to_string())
}

/// A word with its article.
pub(crate) fn article(word: &str) -> String {
    let vowel = word.starts_with(['a', 'e', 'i', 'o', 'u', 'A', 'E', 'I', 'O', 'U']);
    format!("{} {word}", if vowel { "an" } else { "a" })
}

fn wrong_dtype(name: &str, has: &str) -> PyErr {
    PyTypeError::new_err(format!(
        "`{name}` has dtype {has}; expected float32, bfloat16, float16 or float64: .astype or .to converts it"
    ))
}

/// Whether an object says that it is an array.
pub(crate) fn is_array(object: &Bound<'_, PyAny>) -> PyResult<bool> {
    Ok(object.hasattr(intern!(object.py(), "__dlpack__"))? || object.hasattr(intern!(object.py(), "__array__"))?)
}

/// Whether an object has the buffer protocol. (That strings of bytes have it too makes none of them numbers.)
fn is_buffer(object: &Bound<'_, PyAny>) -> bool {
    pyo3::types::PyMemoryView::from(object).is_ok()
}

const DLPACK_CPU: i32 = 1;
const DLPACK_READ_ONLY: u64 = 1;

/// `DLDataType` of dlpack.h, version 1.
#[repr(C)]
struct DlType {
    code: u8,
    bits: u8,
    lanes: u16,
}

/// `DLTensor`.
#[repr(C)]
struct DlTensor {
    data: *mut c_void,
    device: [i32; 2],
    ndim: i32,
    dtype: DlType,
    shape: *const i64,
    strides: *const i64,
    byte_offset: u64,
}

/// `DLManagedTensor`, up to what is read of it.
#[repr(C)]
struct DlManaged {
    tensor: DlTensor,
}

#[repr(C)]
struct DlVersion {
    major: u32,
    minor: u32,
}

/// `DLManagedTensorVersioned`.
#[repr(C)]
struct DlManagedVersioned {
    version: DlVersion,
    context: *mut c_void,
    deleter: *const c_void,
    flags: u64,
    tensor: DlTensor,
}
