// Run a compiled model: no Python, and no compiler. What it needs of TVM are two libraries of a few MB.
//
//     run_model LIBRARY INPUT OUTPUT ROWS COLUMNS
//
// reads ROWS x COLUMNS float32 numbers from the file INPUT, calls the model's "main" with them, and
// writes the numbers of its result to OUTPUT.
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

#include <cstdlib>
#include <fstream>
#include <iostream>

namespace ffi = tvm::ffi;

struct OnTheHeap {  // where the numbers of a tensor are kept
  void AllocData(DLTensor* tensor) {
    size_t bytes = ffi::GetDataSize(*tensor);
    tensor->data = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
  }
  void FreeData(DLTensor* tensor) { std::free(tensor->data); }
};

int main(int count, char** given) try {
  if (count != 6) throw std::runtime_error("run_model LIBRARY INPUT OUTPUT ROWS COLUMNS");
  DLDevice cpu{kDLCPU, 0};
  ffi::Tensor x = ffi::Tensor::FromNDAlloc(OnTheHeap(), {std::atoll(given[4]), std::atoll(given[5])},
                                           DLDataType{kDLFloat, 32, 1}, cpu);
  std::ifstream input(given[2], std::ios::binary);
  if (!input.read(static_cast<char*>(x.data_ptr()), ffi::GetDataSize(x)))
    throw std::runtime_error(std::string(given[2]) + " does not hold that many numbers");

  ffi::Module library = ffi::Module::LoadFromFile(given[1]);  // dlopen, and what is packed into it
  ffi::Module machine = library->GetFunction("vm_load_executable").value()().cast<ffi::Module>();
  // The virtual machine is told where to run, and how to allocate: 2 keeps freed memory for the next call.
  machine->GetFunction("vm_initialization").value()(static_cast<int>(kDLCPU), 0, 2);
  ffi::Tensor y = machine->GetFunction("main").value()(x).cast<ffi::Tensor>();

  std::ofstream output(given[3], std::ios::binary);
  output.write(static_cast<const char*>(y.data_ptr()), ffi::GetDataSize(y));
  return output.flush() ? 0 : 2;
} catch (const std::exception& error) {
  std::cerr << "run_model: " << error.what() << "\n";
  return 2;
}
