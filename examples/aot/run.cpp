// Runs a compiled skip step without Python.
//
//   run_skip_step libtap_ext_ops.so FOLDER
//
// FOLDER is what export.py wrote. The history is built by tap_ext's ops through torch's dispatcher,
// the skip steps run from the package; each must be what Python made of the same numbers.

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/csrc/jit/serialization/pickle.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

std::map<std::string, at::Tensor> load_sample(const std::string& folder) {
  std::ifstream file(folder + "/sample.pt", std::ios::binary);
  if (!file) throw std::runtime_error("there is no sample.pt in " + folder);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  std::map<std::string, at::Tensor> sample;
  for (const auto& entry : torch::jit::pickle_load(bytes).toGenericDict()) {
    sample[entry.key().toStringRef()] = entry.value().toTensor();
  }
  return sample;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 3) throw std::runtime_error("usage: run_skip_step libtap_ext_ops.so FOLDER");
  // Its ops register themselves; it has to stay loaded as long as the package is in use.
  if (dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL) == nullptr) throw std::runtime_error(dlerror());
  const std::string folder = argv[2];
  auto sample = load_sample(folder);
  torch::inductor::AOTIModelPackageLoader skip_step(folder + "/skip_step.pt2");
  const auto stack_update = c10::Dispatcher::singleton()
                                .findSchemaOrThrow("tap_ext::stack_update_", "")
                                .typed<void(const at::Tensor&, const at::Tensor&, const at::Tensor&,
                                            const std::optional<at::Tensor>&)>();

  at::Tensor probes;
  at::Tensor residuals;
  int skipped = 0;
  for (int step = 0;; ++step) {
    const std::string at_step = std::to_string(step) + ".";
    if (sample.count(at_step + "output") != 0) {
      const at::Tensor gaps = sample.at(at_step + "gaps");
      const at::Tensor probe = sample.at(at_step + "probe");
      if (!probes.defined()) {
        std::vector<int64_t> shape = probe.sizes().vec();
        shape.insert(shape.begin(), gaps.size(0) + 1);
        probes = at::zeros(shape, probe.options());
        residuals = at::zeros(shape, probe.options());
      }
      stack_update.call(probes, probe, gaps, std::nullopt);
      stack_update.call(residuals, sample.at(at_step + "output"), gaps,
                        sample.at(at_step + "hidden"));
    } else if (sample.count(at_step + "x") != 0) {
      const auto outputs = skip_step.run({sample.at(at_step + "x"), sample.at(at_step + "time"),
                                          probes, residuals, sample.at(at_step + "table")});
      const at::Tensor expected = sample.at(at_step + "velocity");
      const double error = (outputs.at(0) - expected).abs().max().item<double>();
      std::printf("step %d: largest difference to Python %.1e\n", step, error);
      if (!(error <= 1e-5 * expected.abs().max().item<double>())) {
        throw std::runtime_error("a skip step differs from Python's");
      }
      ++skipped;
    } else {
      break;
    }
  }
  if (skipped == 0) throw std::runtime_error("sample.pt holds no skip step");
  std::printf("%d skip steps agree\n", skipped);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "run_skip_step: %s\n", error.what());
  return 1;
}
