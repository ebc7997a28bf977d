//! A program of the owner's in the engine's place: what `suanli join --trainer` starts.

use crate::buffer::Buffer;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::cell::RefCell;
use std::process::exit;
use suanli_engine::{
    Batch, Cancel, Capabilities, Engine, Loss, ModelConfig, NUMERIC_CLASS_ANY, Objective, Sampling,
    State, StateHash, StepError, StepReport, StepSettings, Task,
};
use suanli_params::Space;
use suanli_worker::{Failure, FailureClass, Plan, child};

/// The longest text that names the program; a contribution carries it.
const BUILD_BYTES_MAX: usize = 64;

/// Works for the family that started this process, until it is told to stop. `make` is called once
/// with the model's configuration as JSON, its tensors (name, shape, first element) and the threads
/// to compute on, and gives an object with `load`, `step` and `store`. Returns how it ended.
#[pyfunction]
pub(crate) fn work(py: Python<'_>, make: Py<PyAny>, build: String) -> u8 {
    let build = build.chars().take_while(|c| !c.is_control()).take(BUILD_BYTES_MAX / 4).collect();
    // Once in the life of the process, which trains and does nothing else.
    let build: &'static str = String::leak(build);
    py.detach(|| {
        child::outside(|plan| {
            Outside::make(&make, build, plan).map(|engine| Box::new(engine) as Box<dyn Engine>)
        })
    })
}

/// A Python object that trains.
struct Outside {
    program: Py<PyAny>,
    build: &'static str,
    threads: usize,
    model: ModelConfig,
    space: Space,
    held: RefCell<Held>,
}

/// The state, and who knows the newest.
struct Held {
    state: State,
    /// The program has what is here, or something newer.
    told: bool,
    /// The program has something newer.
    behind: bool,
}

fn says(py: Python<'_>, error: PyErr) -> StepError {
    let said = error.to_string();
    error.print(py);
    StepError::Outside { said }
}

fn unable(what: &str) -> StepError {
    StepError::Outside { said: format!("a trainer of one's own does not {what}") }
}

/// Values as numpy sees them: `numpy.asarray(buffer).view(numpy.float32)`.
fn floats(values: &[f32]) -> Buffer {
    Buffer::new(values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

fn words(values: &[u32]) -> Buffer {
    Buffer::new(values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

fn values(bytes: &Bound<'_, PyBytes>) -> Vec<f32> {
    let words = bytes.as_bytes().as_chunks::<4>().0;
    words.iter().map(|word| f32::from_le_bytes(*word)).collect()
}

impl Outside {
    fn make(make: &Py<PyAny>, build: &'static str, plan: Plan) -> Result<Self, Failure> {
        if plan.adapters.is_some() {
            return Err(Failure::refused(
                "the job trains adapters, which a trainer of one's own does not: join without \
                 --trainer",
            ));
        }
        let model = plan.model;
        let json = serde_json::to_string(&model).expect("plain numbers are JSON");
        let space = model.space();
        let tensors: Vec<(String, Vec<usize>, usize)> = (space.tensors().iter())
            .map(|tensor| (tensor.name.as_str().into(), tensor.shape.clone(), tensor.range().start))
            .collect();
        let threads = plan.threads;
        let program = Python::attach(|py| {
            make.call1(py, (json, tensors, threads)).map_err(|error| {
                let text = error.to_string();
                error.print(py);
                Failure::new(FailureClass::Engine, text)
            })
        })?;
        let state = State::new(vec![0.0; space.len()]);
        let held = RefCell::new(Held { state, told: false, behind: false });
        Ok(Self { program, build, threads, model, space, held })
    }

    /// Gives the program the state, unless it has it.
    fn tell(&self, py: Python<'_>) -> PyResult<()> {
        let mut held = self.held.borrow_mut();
        if !held.told {
            let (first, second) = held.state.moments();
            let (params, first, second) =
                (floats(held.state.params()), floats(first), floats(second));
            let given = (params, first, second, held.state.steps());
            self.program.call_method1(py, "load", given)?;
            held.told = true;
        }
        Ok(())
    }

    /// Takes what the program made of it. A program that cannot say has failed, and the process
    /// with it: its family starts another on the version it has.
    fn ask(&self) {
        if !self.held.borrow().behind {
            return;
        }
        Python::attach(|py| {
            let taken = self.take(py);
            if let Err(error) = taken {
                error.print(py);
                exit(i32::from(child::EXIT_PROTOCOL));
            }
        });
    }

    fn take(&self, py: Python<'_>) -> PyResult<()> {
        type Parts<'py> = (Bound<'py, PyBytes>, Bound<'py, PyBytes>, Bound<'py, PyBytes>);
        let mut held = self.held.borrow_mut();
        let steps = held.state.steps();
        let parts = self.program.call_method0(py, "store")?;
        let (params, first, second): Parts<'_> = parts.extract(py)?;
        let moments = (values(&first), values(&second));
        let wrong = |error: StepError| pyo3::exceptions::PyValueError::new_err(error.to_string());
        held.state.set(values(&params), moments, steps).map_err(wrong)?;
        held.behind = false;
        Ok(())
    }

    fn train(
        &self,
        py: Python<'_>,
        batch: &Batch<'_>,
        settings: &StepSettings,
    ) -> PyResult<(f32, f32)> {
        self.tell(py)?;
        let texts = (words(batch.inputs), words(batch.targets), floats(batch.weights));
        let shape = (batch.sequences, batch.length);
        let rates = (settings.lr, settings.beta1, settings.beta2, settings.eps);
        let holds = (settings.weight_decay, settings.clip);
        self.program.call_method1(py, "step", (texts, shape, rates, holds))?.extract(py)
    }
}

impl Engine for Outside {
    fn config(&self) -> &ModelConfig {
        &self.model
    }

    fn space(&self) -> &Space {
        &self.space
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            numeric_class: NUMERIC_CLASS_ANY,
            kernel: "outside",
            threads: self.threads,
            build: self.build,
        }
    }

    fn read(&self, at: usize, out: &mut [f32]) {
        self.ask();
        out.copy_from_slice(&self.held.borrow().state.params()[at..at + out.len()]);
    }

    fn write(&mut self, at: usize, values: &[f32]) {
        self.ask();
        let held = self.held.get_mut();
        held.state.params_mut()[at..at + values.len()].copy_from_slice(values);
        held.told = false;
    }

    fn reset_moments(&mut self) {
        self.ask();
        let held = self.held.get_mut();
        held.state.reset_moments();
        held.told = false;
    }

    fn optimizer_steps(&self) -> u64 {
        self.held.borrow().state.steps()
    }

    fn seal(&mut self) -> Vec<u8> {
        self.ask();
        let held = self.held.get_mut();
        held.told = false;
        held.state.seal()
    }

    fn unseal(&mut self, sealed: &[u8]) -> Result<(), StepError> {
        self.ask();
        let held = self.held.get_mut();
        held.told = false;
        held.state.unseal(sealed)
    }

    fn export(&self) -> State {
        self.ask();
        self.held.borrow().state.clone()
    }

    fn import(&mut self, state: &State) -> Result<(), StepError> {
        let held = self.held.get_mut();
        let (expected, found) = (held.state.params().len(), state.params().len());
        if expected != found {
            return Err(StepError::WrongLength { what: "parameters", expected, found });
        }
        *held = Held { state: state.clone(), told: false, behind: false };
        Ok(())
    }

    fn state_hash(&self) -> StateHash {
        self.ask();
        self.held.borrow().state.hash()
    }

    fn step(
        &mut self,
        task: &Task<'_>,
        settings: &StepSettings,
        cancel: &Cancel,
    ) -> Result<StepReport, StepError> {
        settings.check()?;
        cancel.check()?;
        task.batch.check(&self.model)?;
        if task.objective != Objective::NextToken || task.part.is_some() {
            return Err(unable("take another task than the next token"));
        }
        let (loss, grad_norm) = Python::attach(|py| {
            self.train(py, &task.batch, settings).map_err(|error| says(py, error))
        })?;
        if !(loss.is_finite() && grad_norm.is_finite()) {
            // Whatever it did, what was known before counts.
            self.held.get_mut().told = false;
            return Err(StepError::NotFinite { loss, grad_norm });
        }
        let held = self.held.get_mut();
        held.behind = true;
        held.state.count_step();
        Ok(StepReport { loss, tokens: task.batch.tokens() as u64, grad_norm })
    }

    fn evaluate(&mut self, _: &Task<'_>, _: &Cancel) -> Result<Loss, StepError> {
        Err(unable("measure held-out text"))
    }

    fn logprobs(&mut self, _: &Batch<'_>, _: &Cancel) -> Result<Vec<f32>, StepError> {
        Err(unable("rate texts"))
    }

    fn gradient(&mut self, _: &Task<'_>, _: &mut [f32], _: &Cancel) -> Result<Loss, StepError> {
        Err(unable("hand out gradients"))
    }

    fn logits(&mut self, _: &[u32]) -> Result<Vec<f32>, StepError> {
        Err(unable("hand out logits"))
    }

    fn generate(
        &mut self,
        _: &[u32],
        _: &Sampling,
        _: u64,
        _: &Cancel,
        _: &mut dyn FnMut(u32) -> bool,
    ) -> Result<(), StepError> {
        Err(unable("write texts"))
    }
}
