// Continues token ids greedily with a SavedModel of gptjax, through TensorFlow's C API.
//
//   greedy FOLDER COUNT LOGITS ID ID ...     ids go to the standard output, every step's scores into the file LOGITS
//
// tensors.txt in the folder says what the graph calls its tensors.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "tensorflow/c/c_api.h"

namespace {

using Tensors = std::map<std::string, TF_Tensor*>;

struct Program {
  std::map<std::string, TF_Output> in, out;
};

[[noreturn]] void fail(const std::string& why) {
  std::cerr << why << "\n";
  std::exit(1);
}

void check(TF_Status* status) {
  if (TF_GetCode(status) != TF_OK) fail(TF_Message(status));
}

TF_Tensor* int32s(const std::vector<int32_t>& values, const std::vector<int64_t>& shape) {
  TF_Tensor* made = TF_AllocateTensor(TF_INT32, shape.data(), shape.size(), values.size() * sizeof(int32_t));
  std::memcpy(TF_TensorData(made), values.data(), values.size() * sizeof(int32_t));
  return made;
}

TF_Tensor* zeros(const std::vector<int64_t>& shape) {
  size_t bytes = sizeof(float);
  for (int64_t axis : shape) bytes *= axis;
  TF_Tensor* made = TF_AllocateTensor(TF_FLOAT, shape.data(), shape.size(), bytes);
  std::memset(TF_TensorData(made), 0, bytes);
  return made;
}

// Runs a program, and frees what it was given.
Tensors run(TF_Session* session, TF_Status* status, const Program& program, const Tensors& given) {
  std::vector<TF_Output> in, out;
  std::vector<TF_Tensor*> values;
  for (const auto& [name, tensor] : given) {
    in.push_back(program.in.at(name));
    values.push_back(tensor);
  }
  for (const auto& [name, place] : program.out) out.push_back(place);
  std::vector<TF_Tensor*> found(out.size());
  TF_SessionRun(session, nullptr, in.data(), values.data(), in.size(), out.data(), found.data(), out.size(), nullptr, 0,
                nullptr, status);
  check(status);
  for (TF_Tensor* value : values) TF_DeleteTensor(value);
  Tensors named;
  size_t at = 0;
  for (const auto& [name, place] : program.out) named[name] = found[at++];
  return named;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) fail("usage: greedy FOLDER COUNT LOGITS ID ID ...");
  const std::string folder = argv[1];
  const int count = std::atoi(argv[2]);
  std::vector<int32_t> ids;
  for (int i = 4; i < argc; ++i) ids.push_back(std::atoi(argv[i]));

  TF_Status* status = TF_NewStatus();
  TF_Graph* graph = TF_NewGraph();
  TF_SessionOptions* options = TF_NewSessionOptions();
  const char* tags[] = {"serve"};
  TF_Session* session =
      TF_LoadSessionFromSavedModel(options, nullptr, folder.c_str(), tags, 1, graph, nullptr, status);
  check(status);

  std::map<std::string, Program> programs;
  std::vector<int64_t> cache_shape(4);
  std::set<int32_t> ends;
  int64_t context = 0, vocabulary = 0;
  std::ifstream lines(folder + "/tensors.txt");
  for (std::string line, first; std::getline(lines, line);) {
    std::istringstream words(line);
    words >> first;
    if (first == "cache") {
      for (int64_t& axis : cache_shape) words >> axis;
    } else if (first == "context") {
      words >> context;
    } else if (first == "vocabulary") {
      words >> vocabulary;
    } else if (first == "end") {
      int32_t id;
      words >> id;
      ends.insert(id);
    } else {
      std::string way, name, operation;
      int number;
      words >> way >> name >> operation >> number;
      TF_Operation* found = TF_GraphOperationByName(graph, operation.c_str());
      if (found == nullptr) fail("the graph has no operation " + operation);
      (way == "in" ? programs[first].in : programs[first].out)[name] = {found, number};
    }
  }
  if (static_cast<int64_t>(ids.size()) + count - 1 > context) fail("more tokens than the context holds");

  for (const int32_t id : ids)
    if (id < 0 || id >= vocabulary) fail("id " + std::to_string(id) + " is none of the model's");

  const int64_t length = ids.size(), block = cache_shape[2];
  cache_shape[2] = (length + count + block - 1) / block * block;
  Tensors given;
  for (const auto& [name, place] : programs["step"].in)
    if (name != "token" && name != "slot") given[name] = zeros(cache_shape);
  given["tokens"] = int32s(ids, {1, length});
  given["slot"] = int32s({0}, {1});
  given["length"] = int32s({static_cast<int32_t>(length)}, {1});

  std::ofstream scores(argv[3], std::ios::binary);
  const auto began = std::chrono::steady_clock::now();
  auto seconds = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count(); };
  double first_token = 0, first_step = 0;
  Tensors found = run(session, status, programs["prefill"], given);
  int written = 0;
  for (int n = 0; n < count; ++n) {
    TF_Tensor* logits = found["logits"];
    const float* values = static_cast<float*>(TF_TensorData(logits));
    scores.write(reinterpret_cast<const char*>(values), TF_TensorByteSize(logits));
    const int32_t token = std::max_element(values, values + TF_TensorByteSize(logits) / sizeof(float)) - values;
    const bool last = ends.count(token) || n + 1 == count;
    std::cout << token << (last ? "\n" : " ") << std::flush;
    ++written;
    if (n == 0) first_token = seconds();
    if (n == 1) first_step = seconds();
    if (last) break;
    TF_DeleteTensor(logits);
    found.erase("logits");
    given = found;
    given["token"] = int32s({token}, {1});
    given["slot"] = int32s({static_cast<int32_t>(length + n)}, {1});
    found = run(session, status, programs["step"], given);
  }
  std::fprintf(stderr, "first token %.3f s, compiled in it; %.1f tokens/s after the second\n", first_token,
               written > 2 ? (written - 2) / (seconds() - first_step) : 0.0);
}
