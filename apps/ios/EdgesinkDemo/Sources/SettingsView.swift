import EdgesinkCore
import EdgesinkCoreML
import SwiftUI

/// System prompt, sinks, sampling, compute units; the device check.
struct SettingsView: View {
    @Bindable var model: ChatModel
    @Environment(\.dismiss) private var dismiss

    var body: some View {
        NavigationStack {
            Form {
                conversation
                memory
                sampling
                device
            }
            .navigationTitle("Settings")
            .toolbar { Button("Done") { dismiss() } }
        }
    }

    private var conversation: some View {
        Section("Conversation") {
            TextField("System prompt", text: $model.system, axis: .vertical)
            Toggle("Pin the whole system prompt", isOn: $model.pinsSystem)
            if !model.pinsSystem {
                Stepper(
                    "Sinks: \(model.sinks.map(String.init) ?? "the model's own")", value: sinks, in: 0...model.mostSinks
                )
            }
            Button("Start anew") {
                model.reset()
                dismiss()
            }
            Button("Go on from when the app was left") {
                model.resume()
                dismiss()
            }
        }
        .disabled(model.isBusy)
    }

    private var sinks: Binding<Int> {
        Binding(get: { model.sinks ?? min(4, model.mostSinks) }, set: { model.sinks = $0 })
    }

    private var memory: some View {
        Section {
            Toggle("Remember beyond the window", isOn: remembers)
            Button("Forget everything (\(model.passages) passages)", role: .destructive) { model.forgetEverything() }
                .disabled(model.passages == 0)
        } header: {
            Text("Memory")
        } footer: {
            Text("Kept in the app's folder, on this device only; what belongs to a message is quoted behind it.")
        }
        .disabled(model.isBusy)
    }

    private var remembers: Binding<Bool> {
        Binding(get: { model.remembers }, set: { model.setRemembers($0) })
    }

    private var sampling: some View {
        Section("Sampling") {
            LabeledContent("Temperature \(model.sampling.temperature.formatted())") {
                Slider(value: $model.sampling.temperature, in: 0...1.5, step: 0.1)
            }
            LabeledContent("Repetition penalty \(model.sampling.repetitionPenalty.formatted())") {
                Slider(value: $model.sampling.repetitionPenalty, in: 1...1.5, step: 0.05)
            }
        }
    }

    private var device: some View {
        Section {
            Picker("Compute units, at the next load", selection: $model.units) {
                ForEach(ComputeChoice.allCases, id: \.self) { Text($0.rawValue).tag($0) }
            }
            Button("Run the device check (10 minutes)") {
                model.checkDevice()
                dismiss()
            }
            .disabled(model.isBusy)
            if let report = model.report { ShareLink("Share the report", item: report) }
        } header: {
            Text("Device")
        } footer: {
            Text("The check starts a new conversation and writes edgesink-device-check.json into the app's folder.")
        }
    }
}
